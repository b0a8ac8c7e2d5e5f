"""The page in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser, prefer, resize, why_not
from made_submissions import ENV, OTHER, board, protocol, submission

from kv_gym.leaderboard.site import page

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

N = 20
SCRIPT = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
DESKTOP, PHONE = (1200, 900), (360, 740)


def outcomes(first: int, second: int) -> dict[tuple[str, int], list[float]]:
    cells = {(ENV, 64): first, (ENV, 128): second, (OTHER, 32): first}
    return {cell: [1.0] * n + [0.0] * (N - n) for cell, n in cells.items()}


def submissions() -> list[Any]:
    long = "An-unbroken-title-" + "x" * 60
    return [
        submission("random", outcomes(0, 1), title="Random eviction"),
        submission("good", outcomes(14, 18), title="Good rule", authors=["Ada"], link="https://example.org/good"),
        submission("fair", outcomes(8, 10), title="Fair net", agent_kind="checkpoint", agent_trained="on labels"),
        submission("free", outcomes(9, 9), title=long, division="open"),
        submission("nasty", outcomes(3, 4), title=SCRIPT, authors=[SCRIPT], link="javascript:window.pwned=1"),
        submission("golden", outcomes(19, 19), title="Golden eviction", agent_uses_hindsight=True),
        submission("half", {(ENV, 64): [1.0] * N}, title="Half a run"),
    ]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    rules = protocol({ENV: [64, 128], OTHER: [32]}, N)
    found = submissions()
    path = tmp_path_factory.mktemp("site") / "index.html"
    path.write_text(page(board(found, rules), found, rules), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser = open_browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Any, address: str) -> Iterator[Any]:
    """The page, opened anew; whatever a test does, nothing may be said on the console."""
    chromium.get("about:blank")
    resize(chromium, *DESKTOP)
    prefer(chromium, "light")
    chromium.get(address)
    chromium.execute_script("try { localStorage.clear() } catch {}")
    chromium.get("about:blank")
    chromium.get(address)
    yield chromium
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return window.pwned") is None


def slugs(browser: Any) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#ranking tbody tr')].map((r) => r.dataset.slug)"
    )


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def choose(browser: Any, name: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(find(browser, f"#{name}")).select_by_visible_text(text)


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_default_order_is_by_division_and_rank_then_lines_then_incomplete(browser: Any) -> None:
    assert slugs(browser) == ["good", "fair", "nasty", "random", "free", "full_cache", "golden", "half"]
    assert find(browser, "#ranking caption").text.startswith("Score with its 95% interval")
    assert find(browser, "#ranking th.rank").get_attribute("aria-sort") == "ascending"


def test_a_click_sorts_and_a_second_one_turns_it_round(browser: Any) -> None:
    find(browser, "button[data-key=score]").click()
    assert slugs(browser)[:3] == ["full_cache", "golden", "good"] and slugs(browser)[-1] == "half"
    assert find(browser, "th.score").get_attribute("aria-sort") == "descending"
    assert find(browser, "th.rank").get_attribute("aria-sort") == "none"
    find(browser, "button[data-key=score]").click()
    assert slugs(browser)[:3] == ["random", "nasty", "fair"] and slugs(browser)[-1] == "half"
    assert find(browser, "th.score").get_attribute("aria-sort") == "ascending"


def test_keys_sort_and_keep_their_place(browser: Any) -> None:
    from selenium.webdriver import Keys

    browser.execute_script("document.querySelector('button[data-key=rank]').focus()")
    press(browser, Keys.TAB, Keys.ENTER)
    assert find(browser, "th.agent").get_attribute("aria-sort") == "ascending"
    assert browser.switch_to.active_element.get_attribute("data-key") == "agent"
    press(browser, Keys.SPACE)
    assert find(browser, "thead th.agent").get_attribute("aria-sort") == "descending"


def test_filters(browser: Any) -> None:
    find(browser, "#search").send_keys("ada good")
    find(browser, "#lines").click()
    assert slugs(browser) == ["good"] and find(browser, "#shown").text == "1 of 8 rows shown"
    browser.execute_script(
        "const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input'))"
    )
    choose(browser, "kind", "learned")
    assert slugs(browser) == ["fair"]
    choose(browser, "kind", "all")
    choose(browser, "division", "open")
    assert slugs(browser) == ["free"]
    find(browser, "#lines").click()
    assert slugs(browser) == ["free", "full_cache", "golden"]


def test_another_env_changes_columns_and_curves(browser: Any) -> None:
    def ticks() -> list[str]:
        return [cell.text for cell in browser.find_elements("css selector", "#ranking th.cell")]

    assert ticks() == ["64", "128"]
    choose(browser, "env", OTHER)
    assert ticks() == ["32"]
    assert "32 slots 70%" in find(browser, ".curve[data-slug=good]").get_attribute("aria-label")


def test_an_agent_opens_and_the_way_back_keeps_the_place(browser: Any) -> None:
    find(browser, "tr[data-slug=good] a.name").click()
    assert browser.current_url.endswith("#agent/good") and browser.title == "Good rule · kv-gym leaderboard"
    text = find(browser, "#agent").text
    for part in ("rank 1, closed division", "Ahead of the next", "kv-gym submit good", "d" * 40, "a CPU", "graph"):
        assert part in text
    assert browser.switch_to.active_element.tag_name == "h1"
    assert not find(browser, "#board").is_displayed()
    browser.back()
    assert find(browser, "#board").is_displayed() and not find(browser, "#agent").is_displayed()
    assert browser.switch_to.active_element.text == "Good rule"


def test_incomplete_and_unknown_pages(browser: Any) -> None:
    browser.execute_script("location.hash = '#agent/half'")
    assert f"lacks 20 of 20 episodes of {ENV} at budget 128" in find(browser, "#agent .note").text
    browser.execute_script("location.hash = '#agent/nobody'")
    assert find(browser, "#agent h1").text == "No such submission"


def test_dark_is_the_readers_choice_or_the_systems(browser: Any, address: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    def theme() -> str:
        return browser.execute_script("return document.documentElement.dataset.theme")

    def paper() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = paper()
    assert theme() == "light"
    find(browser, "#theme").click()
    assert theme() == "dark" and paper() != light and find(browser, "#theme").text == "Light"

    def stays_dark(page: Any) -> bool:  # on a busy machine Chromium can forget what was stored just before a reload
        if theme() == "light":
            find(page, "#theme").click()
        page.refresh()
        return theme() == "dark"

    WebDriverWait(browser, 20).until(stays_dark)
    find(browser, "#theme").click()
    browser.execute_script("localStorage.clear()")
    prefer(browser, "dark")
    browser.refresh()
    assert theme() == "dark"


def test_curves_light_up_and_can_be_hidden(browser: Any) -> None:
    browser.execute_script("document.querySelector('.curve[data-slug=good]').focus()")
    assert find(browser, "#reading").text.startswith("Good rule")
    assert browser.execute_script("return document.querySelectorAll('.curve.hot').length") == 1
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(find(browser, ".curve[data-slug=fair] .dot")).perform()
    assert find(browser, "#reading").text.startswith("Fair net 64: 40% [")
    ActionChains(browser).move_to_element(find(browser, "h2")).perform()
    assert find(browser, "#reading").text.startswith("Point at a curve")
    button = find(browser, "#legend button[data-slug=good]")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert find(browser, "#legend button[data-slug=good]").get_attribute("aria-pressed") == "false"
    assert browser.find_elements("css selector", ".curve[data-slug=good]") == []
    find(browser, "#legend-none").click()
    assert browser.find_elements("css selector", ".curve") == []
    find(browser, "#legend-all").click()
    assert len(browser.find_elements("css selector", ".curve")) == 8


@pytest.mark.parametrize("hash", ["", "#agent/good", "#agent/nasty", "#agent/free", "#agent/half"])
def test_a_phone_does_not_scroll_sideways(browser: Any, address: str, hash: str) -> None:
    resize(browser, *PHONE)
    browser.get("about:blank")
    browser.get(address + hash)
    assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    hidden = "const s = document.querySelector('.scroll'); return s.scrollWidth - s.clientWidth"
    assert browser.execute_script(hidden) == 0


def test_markup_in_titles_and_links_is_inert(browser: Any) -> None:
    assert SCRIPT in find(browser, "tr[data-slug=nasty] a.name").text
    browser.execute_script("location.hash = '#agent/nasty'")
    assert find(browser, "#agent h1").text == SCRIPT
    assert browser.find_elements("css selector", "#agent img, #agent script, #agent a[href^=javascript]") == []
    browser.execute_script("location.hash = '#agent/good'")
    assert find(browser, "#agent a[target]").get_attribute("href") == "https://example.org/good"


CONTRAST = """
const linear = (x) => x <= .03928 * 255 ? x / 255 / 12.92 : ((x / 255 + .055) / 1.055) ** 2.4;
const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const paper = (node) => {
  const c = node ? rgb(getComputedStyle(node).backgroundColor) : [255, 255, 255];
  return c.length === 3 || c[3] === 1 ? c : paper(node.parentElement);
};
const bad = [];
for (const node of document.querySelectorAll("body *")) {
  const text = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
  if (!text || !node.checkVisibility()) continue;
  if (node.closest("script, style, noscript")) continue;
  const style = getComputedStyle(node), ink = rgb(node instanceof SVGElement ? style.fill : style.color).slice(0, 3);
  const [a, b] = [light(ink), light(paper(node).slice(0, 3))].sort((x, y) => y - x);
  if ((a + .05) / (b + .05) < 4.5) bad.push(`${node.tagName}: ${node.textContent.slice(0, 40)}`);
}
return bad;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash", ["", "#agent/good", "#agent/half"])
def test_all_text_has_contrast_enough(browser: Any, address: str, scheme: str, hash: str) -> None:
    prefer(browser, scheme)
    browser.get("about:blank")
    browser.get(address + hash)
    assert browser.execute_script("return document.documentElement.dataset.theme") == scheme
    assert browser.execute_script(CONTRAST) == []


def test_every_control_has_a_name_and_a_visible_focus(browser: Any) -> None:
    unnamed = "return [...document.querySelectorAll('input, select')].filter((c) => !c.labels.length).map((c) => c.id)"
    assert browser.execute_script(unnamed) == []
    buttons = (
        "return [...document.querySelectorAll('button')].filter((b) => !b.textContent.trim() && !b.ariaLabel).length"
    )
    assert browser.execute_script(buttons) == 0
    from selenium.webdriver import Keys

    press(browser, Keys.TAB, Keys.TAB, Keys.TAB)
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert (
        browser.switch_to.active_element.get_attribute("id") == "theme" and browser.execute_script(outline) == "solid"
    )


def test_an_empty_board_says_so(chromium: Any, tmp_path: Path) -> None:
    rules = protocol({ENV: [64]}, 4)
    path = tmp_path / "index.html"
    path.write_text(page(board([], rules), [], rules), encoding="utf-8")
    chromium.get(path.as_uri())
    assert find(chromium, "#shown").text == "No submissions yet." and chromium.get_log("browser") == []
