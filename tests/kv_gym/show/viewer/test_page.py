"""The page is one file that text cannot break out of, and compares like with like."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from kv_gym.show.recording import RecordedEpisode, RecordingError
from kv_gym.show.viewer.page import build_page


class Scripts(HTMLParser):
    """What an HTML parser takes for scripts, styles and links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.found.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            attributes, text = self.found[-1]
            self.found[-1] = attributes, text + data


def test_text_cannot_leave_its_script(left: RecordedEpisode, right: RecordedEpisode) -> None:
    assert "</script>" in left.prompt and "<img" in (right.answer or "")
    page = build_page([left, right])
    parsed = Scripts(page)
    assert [attributes.get("id") for attributes, _ in parsed.found] == [None, "data", None]  # style, data, script
    data = parsed.found[1][1]
    assert not set("<>&\u2028\u2029") & set(data)
    assert [RecordedEpisode.model_validate(one) for one in json.loads(data)["episodes"]] == [left, right]
    assert page.count("<img") == 0 and page.lower().count("</script>") == 2


def test_a_recording_cannot_fill_in_the_template(left: RecordedEpisode) -> None:
    page = build_page([left.model_copy(update={"command": "{{script}} \\1 {{data}}"})])
    assert "{{script}} \\\\1 {{data}}" in page
    assert page.count("class Viewer") == 1


def test_the_policy_names_this_style_and_script_and_nothing_else(left: RecordedEpisode) -> None:
    parsed = Scripts(build_page([left]))
    (policy,) = (attributes["content"] for tag, attributes in parsed.tags if "http-equiv" in attributes)
    style, _, script = (text for _, text in parsed.found)
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in (policy or "")
    assert (policy or "").startswith("default-src 'none'")
    assert "unsafe" not in (policy or "")


def test_the_page_needs_no_network_and_never_parses_html(left: RecordedEpisode) -> None:
    page = build_page([left])
    links = [a.get("src") or a.get("href") for _, a in Scripts(page).tags if a.get("src") or a.get("href")]
    assert links == ["data:,"]
    assert not re.search(
        r"https?://|@import|url\(|fetch\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write", page
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"problem": "p/1"}, "different problems, 'p/0' and 'p/1'"),
        ({"gold": "3"}, "the same name, but another text or answer"),
        ({"prompt": "other"}, "the same name, but another text or answer"),
    ],
)
def test_different_problems_are_not_compared(
    left: RecordedEpisode, right: RecordedEpisode, change: dict[str, str], message: str
) -> None:
    with pytest.raises(RecordingError, match=message):
        build_page([left, right.model_copy(update=change)])


def test_different_models_are_not_compared(left: RecordedEpisode, right: RecordedEpisode) -> None:
    other = right.model.model_copy(update={"fingerprint": "4" * 64})
    with pytest.raises(RecordingError, match="different models"):
        build_page([left, right.model_copy(update={"model": other})])
