"""The page in a real browser: what it shows is what the recordings say, by mouse, keyboard and finger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import prefer, resize

from kv_gym.show.recording import RecordedEpisode
from kv_gym.show.viewer.page import build_page

Open = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page of recordings, `width` pixels wide; nothing may go to the console."""

    def call(*episodes: RecordedEpisode, width: int = 1200, at: str = "", scheme: str = "light") -> Any:
        path = tmp_path / "page.html"
        path.write_text(build_page(episodes), encoding="utf-8")
        resize(browser, width, 800)
        prefer(browser, scheme)
        browser.get("about:blank")
        browser.get(f"{path.as_uri()}{at}")
        return browser

    yield call
    assert browser.get_log("browser") == []


def find(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def text(browser: Any, selector: str) -> str:
    return str(find(browser, selector)[0].text)


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def shares(browser: Any, episode: int = 0) -> list[float]:
    """The tint of every token that is shown."""
    script = """return [...document.querySelectorAll(".episode")[arguments[0]].querySelectorAll(".t:not(.later)")]
                .map((token) => Number(token.style.getPropertyValue("--share")))"""
    return [float(share) for share in browser.execute_script(script, episode)]


def expected(episode: RecordedEpisode, step: int) -> list[float]:
    """Share of the heads that hold each token after `step` steps, from `held`; the newest token is not read yet."""
    if step == 0:
        return [1.0] * (episode.slots + 1)
    read, shown = episode.steps[step - 1].length, episode.slots + 1 + sum(s.written for s in episode.steps[:step])
    heads = [
        set(head) | set(range(read - episode.evict_every, read)) for layer in episode.held(step - 1) for head in layer
    ]
    return [sum(p in head for head in heads) / len(heads) if p < read else 1.0 for p in range(shown)]


def test_every_step_shows_what_the_heads_hold(show: Open, left: RecordedEpisode) -> None:
    browser = show(left, at="#step=0")
    assert text(browser, "#now") == "step 0 of 9 · 8 tokens read" and len(left.steps) == 9
    for step in range(len(left.steps) + 1):
        assert shares(browser) == pytest.approx(expected(left, step)), step
        press(browser, "\ue014")  # arrow right
    assert 0 < sum(expected(left, 4)) < len(expected(left, 4))


def test_keys_slider_play_and_time_line_move_the_step(show: Open, left: RecordedEpisode) -> None:
    browser = show(left, at="#step=2")
    press(browser, "\ue014", "\ue014", "\ue012")  # right, right, left
    assert text(browser, "#now").startswith("step 3 of 9")
    press(browser, "\ue011")  # home
    assert text(browser, "#now").startswith("step 0 of 9")
    slider = find(browser, "#step")[0]
    slider.send_keys("\ue014")
    assert text(browser, "#now").startswith("step 1 of 9") and slider.get_attribute("aria-valuetext").startswith(
        "step 1"
    )
    canvas = find(browser, ".timeline canvas")[0]
    browser.execute_script("window.spot = viewer.timelines[0].x(6, arguments[0].clientWidth)", canvas)
    from selenium.webdriver import ActionChains

    offset = browser.execute_script("return spot - arguments[0].clientWidth / 2", canvas)
    ActionChains(browser).move_to_element_with_offset(canvas, round(offset), 0).click().perform()
    assert text(browser, "#now").startswith("step 6 of 9")
    play = find(browser, "#play")[0]
    play.click()
    assert play.get_attribute("aria-label") == "Pause"
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda page: text(page, "#now").startswith("step 9 of 9"))
    assert play.get_attribute("aria-label") == "Play"


def test_a_token_says_who_holds_it(show: Open, left: RecordedEpisode) -> None:
    browser = show(left, at="#step=4")
    assert not find(browser, "#details")[0].is_displayed()
    find(browser, ".t")[9].click()
    shown = text(browser, "#details")
    held = expected(left, 4)[9] * 4
    assert held == 3 and "Held by\n3 of 4 heads" in shown and "position 9, problem" in shown
    assert f"Age\n{left.steps[3].length - 1 - 9} tokens" in shown
    assert shown.count("gone: step") == 1 and "gone: step 4" in shown
    press(browser, "\ue00c")  # escape
    assert not find(browser, "#details")[0].is_displayed()
    find(browser, ".t")[15].click()
    shown = text(browser, "#details")
    assert "Surprisal, evicting\n4 nats" in shown and "Surprisal, full cache\n0.02 nats" in shown
    assert "written in step 4" in shown
    assert [token.get_attribute("data-i") for token in find(browser, ".t.odd")] == ["15"]


def test_a_token_opens_by_hover_and_by_keyboard(show: Open, left: RecordedEpisode) -> None:
    from selenium.webdriver import ActionChains

    browser = show(left, at="#step=4")
    ActionChains(browser).move_to_element(find(browser, ".t")[2]).perform()
    assert "position 2, problem" in text(browser, "#details")
    ActionChains(browser).move_to_element(find(browser, "h1")[0]).perform()
    assert not find(browser, "#details")[0].is_displayed()
    browser.execute_script("document.querySelector('.head[tabindex=\"0\"]').focus()")
    press(browser, "\ue004")  # tab: from the grid of heads into the text
    assert "position 0, problem" in text(browser, "#details")
    press(browser, "\ue014")
    assert "position 1, problem" in text(browser, "#details") and text(browser, "#now").startswith("step 4")
    press(browser, "\ue015")  # down: the prompt's only line ends, the reasoning begins
    assert "position 13" in text(browser, "#details") or "position 14" in text(browser, "#details")


def test_a_head_colours_the_text_and_lets_go(show: Open, left: RecordedEpisode) -> None:
    browser = show(left)
    heads = find(browser, ".head")
    assert [head.get_attribute("aria-label") for head in heads] == [
        f"layer {layer}, KV head {head} holds 8 of 26 tokens" for layer in (0, 1) for head in (0, 1)
    ]
    heads[1].click()
    assert heads[1].get_attribute("aria-pressed") == "true" and "true" not in {
        heads[i].get_attribute("aria-pressed") for i in (0, 2, 3)
    }
    held = set(left.held(8)[0][1])
    assert shares(browser)[:24] == [float(p in held) for p in range(24)]
    assert "layer 0, KV head 1 alone" in text(browser, ".memory")
    press(browser, "\ue015")  # arrow down: the head below
    assert browser.switch_to.active_element.get_attribute("data-head") == "3"
    find(browser, ".all")[0].click()
    assert shares(browser) == pytest.approx(expected(left, 9))


def test_two_agents_share_a_slider(show: Open, left: RecordedEpisode, right: RecordedEpisode) -> None:
    browser = show(left, right, at="#step=10")
    assert [name.text for name in find(browser, ".episode h2")] == ["left", "right"]
    verdicts = [verdict.text for verdict in find(browser, ".verdict")]
    assert verdicts == [
        "✓ right answers 2; gold answer 2",
        "✗ wrong answers <img src=x onerror=alert(1)>; gold answer 2",
    ]
    assert len(left.steps) == 9 and len(right.steps) == 11
    assert [state.text.split(":")[0] for state in find(browser, ".state")] == ["ended after step 9", "step 10"]
    assert shares(browser, 0) == pytest.approx(expected(left, 9))
    assert shares(browser, 1) == pytest.approx(expected(right, 10))
    marked = [mark.find_element("xpath", "following-sibling::span[1]") for mark in find(browser, ".text .differs")]
    assert [token.get_attribute("data-i") for token in marked] == ["16", "16"]
    assert left.tokens.text[16] == "+" and right.tokens.text[16] == "x"
    own = {token.get_attribute("data-i") for token in find(browser, ".episode:first-child .t.own")}
    assert own == {str(i) for i in range(16, len(left.tokens))}


def test_other_budgets_meet_on_the_text(
    show: Open, left: RecordedEpisode, make_episode: Callable[..., RecordedEpisode]
) -> None:
    browser = show(left, make_episode(budget=10), at="#step=1")
    assert [state.text.split(":")[0] for state in find(browser, ".state")] == [
        "step 1", "holds all 10 tokens; nothing evicted yet",
    ]  # fmt: skip
    assert [name.text for name in find(browser, ".episode h2")] == ["left, 6 slots", "left, 10 slots"]
    assert shares(browser, 1) == [1.0] * 11


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_is_legible(
    show: Open, left: RecordedEpisode, right: RecordedEpisode, width: int, scheme: str
) -> None:
    browser = show(left, right, width=width, scheme=scheme)
    wide, seen = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= seen <= width
    find(browser, ".t")[12].click()
    left_edge, right_edge = browser.execute_script(
        "const box = document.getElementById('details').getBoundingClientRect(); return [box.left, box.right]"
    )
    assert left_edge >= 0 and right_edge <= seen
    assert browser.execute_script(CONTRAST) >= 4.5
    assert browser.execute_script("return document.documentElement.scrollWidth") <= seen


CONTRAST = """
const numbers = (text) => { // of a colour, drawn on what is there
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (const colour of text) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
let least = Infinity;
const shown = ".t:not(.later), .state, .note, .lead, .verdict b, .legend li, .cell, dt, h3, .differs, .keys, .who";
for (const element of document.querySelectorAll(shown)) {
  const behind = [];
  for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const [one, other] = [numbers(behind), numbers([...behind, getComputedStyle(element).color])].map(light);
  least = Math.min(least, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05));
}
return least;
"""
