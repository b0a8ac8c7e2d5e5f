"""The page as a file: one document, nothing from outside, no markup of submitters."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest
from made_submissions import ENV, OTHER, board, protocol, submission

from kv_gym.leaderboard.site import embedded, page

NASTY = "</script><script>alert(1)</script><!--\u2028\u202e"


def built(**changed: Any) -> str:
    rules = protocol({ENV: [64], OTHER: [32]}, 4)
    cells = {(ENV, 64): [0.0] * 4, (OTHER, 32): [0.0] * 4}
    mine = submission("mine", {cell: [1.0, 0.0, 1.0, 0.0] for cell in cells}, **changed)
    found = [submission("random", cells), mine]
    return page(board(found, rules), found, rules)


def data_of(html: str) -> Any:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_the_same_submissions_give_the_same_bytes() -> None:
    assert built() == built()


def test_the_page_asks_nobody_for_anything() -> None:
    html = built(link="https://example.org")
    assert not re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=\"?(?!data:)[^\s\">]", html)
    assert "@import" not in html and "url(" not in html and "fetch(" not in html
    assert re.search(r"content=\"default-src 'none';", html)


def test_the_policy_names_exactly_the_scripts_and_the_style_of_the_page() -> None:
    html = built()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", html, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in inline]
    assert len(hashes) == 3 and sorted(re.findall(r"'sha256-[^']*'", policy)) == sorted(hashes)
    assert "unsafe" not in policy


def test_what_submitters_wrote_is_data() -> None:
    html = built(title=NASTY, authors=[NASTY], agent_trained=NASTY, command=NASTY)
    assert "alert(1)" in html and "<script>alert" not in html and "<!--" not in html and "\u2028" not in html
    [mine] = [one for one in data_of(html)["board"]["standings"] if one["slug"] == "mine"]
    assert mine["title"] == NASTY and mine["authors"] == [NASTY]
    assert html.count("</script>") == built().count("</script>")


def test_placeholders_in_texts_are_not_filled_in() -> None:
    assert data_of(built(title="{{style}}"))["board"]["standings"][0]["title"] == "{{style}}"


def test_embedded_json_holds_no_markup_and_no_nan() -> None:
    assert embedded({"b": "<&>", "a": 1}) == '{"a":1,"b":"\\u003c\\u0026\\u003e"}'
    with pytest.raises(ValueError, match="JSON"):
        embedded(float("nan"))


def test_every_submission_on_the_board_has_its_page() -> None:
    data = data_of(built())
    assert {one["slug"]: one["detailed"] for one in data["board"]["standings"]} == {
        "mine": True, "random": True, "full_cache": False,
    }  # fmt: skip
    mine = data["details"]["mine"]
    assert mine["command"] == "kv-gym submit mine" and mine["check"].endswith("2026-11-23_mine")
    rows = {name: value for group in mine["provenance"] for name, value, _ in group["rows"]}
    assert rows["commit"] == "d" * 40 and rows["cpu"] == "a CPU" and rows["full-cache references"] == "e" * 64


def test_a_dirty_or_unknown_tree_is_said() -> None:
    for git, said in (({"commit": "d" * 40, "dirty": True}, "d" * 40 + ", with changes"), (None, "unknown")):
        groups = data_of(built(git=git))["details"]["mine"]["provenance"]
        assert ["commit", said, True] in [row for group in groups for row in group["rows"]]


def test_options_that_are_no_single_value_are_shown_as_json() -> None:
    options = {"a": [1, None], "b": {"c": True}, "d": None, "e": "x", "f": True}
    groups = data_of(built(agent_options=options))["details"]["mine"]["provenance"]
    assert ["options", 'a=[1, null], b={"c": true}, d=null, e=x, f=True', True] in groups[0]["rows"]
