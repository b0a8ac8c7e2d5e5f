"""The board -> one HTML file that needs no network, and the table in leaderboards/README.md.

What submitters wrote is data: it goes into the page as JSON in which no `<` is left, scripts put it on the page as text
nodes only, and the page's policy runs no script but its own two, named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.rank import Board
from kv_gym.leaderboard.submission import ReadSubmission

SCRIPTS = ("dom.js", "table.js", "chart.js", "agent.js", "main.js")
DIGITS = 6  # of every number in the page
CHECK = "kv-gym submit check leaderboards/submissions/"
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page(board: Board, submissions: Iterable[ReadSubmission], protocol: Protocol) -> str:
    """The whole site as one HTML document; the same input gives the same bytes."""
    folder = files("kv_gym.leaderboard") / "site"

    def part(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    style, theme = part("board.css"), part("theme.js")
    script = "\n".join(['"use strict";', "(() => {", *(part(name) for name in SCRIPTS), "})();", ""])
    values = {
        "style": style,
        "theme": theme,
        "script": script,
        "style_hash": _policy_hash(style),
        "script_hashes": f"{_policy_hash(theme)} {_policy_hash(script)}",
        "data": embedded(site_data(board, submissions, protocol)),
    }
    return _PLACE.sub(lambda place: values[place[1]], part("board.html"))


def site_data(board: Board, submissions: Iterable[ReadSubmission], protocol: Protocol) -> dict[str, Any]:
    """What the page draws: the board, the protocol, and where each submission on the board comes from."""
    found = {(one.submission.slug, str(one.submission.date)): one for one in submissions}
    details = {
        standing.slug: details_of(found[standing.slug, standing.date])
        for standing in board.standings
        if (standing.slug, standing.date) in found
    }
    for_page = {
        **board.to_json(),
        "standings": [{**one, "detailed": one["slug"] in details} for one in board.to_json()["standings"]],
    }
    data = {"board": for_page, "protocol": protocol.model_dump(mode="json"), "details": details}
    return _rounded(data)


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: it holds no `<`, `>` or `&`, and no line end that scripts know."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) or value is None else str(value)


def details_of(found: ReadSubmission) -> dict[str, Any]:
    """Where a submission comes from: groups of (name, value, whether the value is code)."""
    submission, agent, system = found.submission, found.submission.agent, found.system
    git = submission.git or {}
    commit = f"{git.get('commit', 'unknown')}{', with changes' if git.get('dirty') else ''}"
    options = ", ".join(f"{name}={_shown(value)}" for name, value in sorted(agent.options.items()))
    groups: dict[str, list[tuple[str, str, bool]]] = {
        "Agent": [
            ("source", agent.source, True),
            ("comes as", agent.kind, False),
            ("file", agent.file, True),
            ("options", options, True),
            ("sha256 of its file", agent.sha256, True),
        ],
        "Protocol": [
            ("protocol", submission.protocol, False),
            ("sha256", submission.protocol_sha256, True),
            ("full-cache references", submission.references_sha256, True),
            *((f"model {name}", fingerprint, True) for name, fingerprint in submission.models.items()),
        ],
        "Source and versions": [
            ("commit", commit, True),
            *((name, value, False) for name, value in submission.versions.items()),
        ],
        "Machine": [
            *((name, str(value), False) for name, value in system.hardware.items()),
            ("threads", str(submission.threads), False),
            ("episodes side by side", str(submission.width), False),
        ],
    }
    return {
        "trained": agent.trained,
        "command": submission.command,
        "check": CHECK + found.folder.name,
        "provenance": [{"title": title, "rows": [row for row in rows if row[1]]} for title, rows in groups.items()],
    }
