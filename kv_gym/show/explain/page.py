"""An explanation as one HTML file that needs nothing else, and runs no script.

Names of agents, problems and families come from files that a stranger may have written: they go into the page as text.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from kv_gym.show.explain.duel import Bout, Duel
from kv_gym.show.explain.explanation import Cut, Explanation, Measures
from kv_gym.show.explain.plot import explanation_figure
from kv_gym.show.explain.tables import COLUMNS, cells_of, families_grid, told

TEMPLATE = Path(__file__).with_name("page.html")
MOST_BOUTS = 50  # of each kind that are listed
COMPARED = 3, 4  # columns that get a bar: a slot, a step


def build_page(found: Explanation, command: str | None = None) -> str:
    """Return the page.

    Args:
        found: What is shown.
        command: What is typed to see a lost problem; None where none was.
    """
    lead, *_ = told(found)
    sections = [_cut_section(cut, found.agents) for cut in found.cuts if cut.key != "head" or not found.crowded]
    if found.duel is not None:
        sections += [_families_section(found.duel), *_bouts_sections(found.duel)]
    if command is not None:
        sections.append(f"<h2>To see why</h2><pre>{html.escape(command)}</pre>")
    parts = {
        "title": html.escape(f"What {' and '.join(found.agents)} evict and would have needed"),
        "lead": html.escape(lead),
        "picture": _picture(found),
        "meanings": "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in COLUMNS.items()),
        "sections": "\n".join(sections),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # once: parts are not searched again


def _picture(found: Explanation) -> str:
    data = io.BytesIO()
    explanation_figure(found).savefig(data, format="png", dpi=130)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _cut_section(cut: Cut, agents: Sequence[str]) -> str:
    """One cut as a table, with bars behind what agents are compared by."""
    most = [
        max((value for group in cut.groups for one in group.of.values() if (value := _compared(one)[i])), default=0.0)
        for i in range(len(COMPARED))
    ]
    rows = []
    for group in cut.groups:
        for i, agent in enumerate(agents):
            one = group.of[agent]
            bars = {place: v / m if m else 0.0 for place, v, m in zip(COMPARED, _compared(one), most, strict=True)}
            cells = "".join(_cell(text, bars.get(j)) for j, text in enumerate(cells_of(one)))
            label, same = (html.escape(group.label), "") if i == 0 else ("", " class=same")
            name = f'<td class="name">{html.escape(agent)}</td>'
            rows.append(f'<tr{same}><th scope="row">{label}</th>{name}{cells}</tr>')
    heads = [cut.title, "agent", *(f"{head} %" for head in COLUMNS)]
    return _section(cut.title, heads, rows)


def _compared(one: Measures) -> tuple[float, float]:
    return one.lost_per_slot.value if one.lost_per_slot else 0.0, one.lost.value if one.lost else 0.0


def _cell(text: str, share: float | None) -> str:
    if share is None:
        return f"<td>{html.escape(text)}</td>"
    return f'<td class="bar" style="--share: {100 * share:.1f}%">{html.escape(text)}</td>'


def _section(title: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    left = {"agent": " class=name"}
    marked = "".join(f'<th scope="col"{left.get(one, "")}>{html.escape(one)}</th>' for one in heads)
    table = f"<table><thead><tr>{marked}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<h2>{html.escape(title)}</h2><div class="wide">{table}</div>'


def _families_section(fought: Duel) -> str:
    grid = families_grid(fought)
    return _section(grid.title, grid.heads, [_row(line) for line in grid.lines])


def _row(texts: Sequence[str]) -> str:
    first, *others = texts
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in others)
    return f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'


def _bouts_sections(fought: Duel) -> list[str]:
    """The problems themselves, the clearest first."""
    seeds = len({bout.seed for bout in fought.bouts}) > 1
    unit = "score" if fought.measure == "accuracy" else "loss, nats a token"
    heads = ["problem", *(["seed"] if seeds else []), "family", f"{fought.ours}: {unit}", f"{fought.theirs}: {unit}"]
    found = []
    for who, bouts in ((fought.theirs, fought.lost), (fought.ours, fought.won)):
        if bouts:
            more = f", the first {MOST_BOUTS}" if len(bouts) > MOST_BOUTS else ""
            rows = [_row(_bout_cells(bout, seeds)) for bout in bouts[:MOST_BOUTS]]
            found.append(_section(f"{len(bouts)} problems on which {who} is better{more}", heads, rows))
    return found


def _bout_cells(bout: Bout, seeds: bool) -> list[str]:
    return [bout.problem, *([str(bout.seed)] if seeds else []), bout.family, f"{bout.ours:.3g}", f"{bout.theirs:.3g}"]
