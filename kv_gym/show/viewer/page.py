"""Recordings -> one HTML file that needs nothing else.

Everything a recording holds is text that an LLM, a problem set or a stranger wrote. It goes into the page as JSON that
cannot close its script tag, and from there into the document as text only. The page's own policy forbids every script
but this package's, and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from kv_gym.engine.measures import Measure, step_measures
from kv_gym.show.recording import RecordedEpisode, RecordingError

FOLDER = Path(__file__).parent
SCRIPTS = ("dom.js", "episode.js", "text.js", "heads.js", "timeline.js", "details.js", "main.js")
MOST_EPISODES = 2


def build_page(episodes: Sequence[RecordedEpisode]) -> str:
    """Return the page that shows one episode, or two of the same problem side by side.

    Raises:
        RecordingError: The two are of different problems or models.
    """
    assert 1 <= len(episodes) <= MOST_EPISODES
    for other in episodes[1:]:
        check_comparable(episodes[0], other)
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    script = '"use strict";\n' + "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    first, second, *_ = measures = step_measures()
    parts = {
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": _json(episodes),
        "up": html.escape(first.title),
        "down": html.escape(second.title),
        "measures": "\n    ".join(_described(measure) for measure in measures),
    }
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # once: parts are not searched again


def check_comparable(one: RecordedEpisode, other: RecordedEpisode) -> None:
    """Raise unless two episodes are of the same problem, read by the same model."""
    if (one.problem, one.prompt, one.gold) != (other.problem, other.prompt, other.gold):
        which = f"{one.problem!r} and {other.problem!r}"
        same = " (the same name, but another text or answer)" if one.problem == other.problem else ""
        raise RecordingError(
            f"the two recordings are of different problems, {which}{same}. Compare agents on one problem: "
            f"`kv-gym record {one.env_id} --problem I --agent {one.agent} --agent {other.agent} --out DIR`."
        )
    if one.model.fingerprint != other.model.fingerprint:
        raise RecordingError(
            f"the two recordings are of different models, {one.model.name!r} ({one.model.fingerprint[:12]}) and "
            f"{other.model.name!r} ({other.model.fingerprint[:12]}). Record both agents with one model."
        )


def _described(measure: Measure) -> str:
    """What a measure is, a sentence of HTML."""
    unit = f" ({html.escape(measure.unit)})" if measure.unit else ""
    return f"<b>{html.escape(measure.title.capitalize())}</b>{unit}: {html.escape(measure.description.rstrip('.'))}."


def _json(episodes: Sequence[RecordedEpisode]) -> str:
    """Write episodes and what their steps measure so that an HTML parser sees nothing but text."""
    measures = json.dumps([{"name": m.name, "title": m.title, "unit": m.unit} for m in step_measures()])
    data = f'{{"measures":{measures},"episodes":[{",".join(episode.model_dump_json() for episode in episodes)}]}}'
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return data


def _hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
