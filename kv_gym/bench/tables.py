"""A report as tables: what stands in each cell, for the terminal and for pages."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kv_gym.bench.intervals import Interval
from kv_gym.bench.report import CellReport, Report
from kv_gym.bench.versus import Versus
from kv_gym.engine.measures import MEASURES, Measure

MOST_CUT_OFF = 0.05
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Entry:
    """What stands in a cell of a table."""

    text: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Line:
    """One agent, an entry a column.

    Attributes:
        ranked: False for references.
        hindsight: It knows the future.
    """

    agent: str
    entries: tuple[Entry, ...]
    ranked: bool
    hindsight: bool


@dataclass(frozen=True)
class Table:
    """Agents x budgets, or numbers of another kind; `heads` names its columns."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def filled(self) -> bool:
        """Whether any cell has a text."""
        return any(entry.text for line in self.lines for entry in line.entries)


def tables(report: Report) -> list[Table]:
    """What the terminal shows: accuracy, measures and cost; without empty tables."""
    mode = "" if report.accuracy_mode == "generate" else " of the answer after the replayed trace"
    found = [
        matrix(report, f"Accuracy{mode}, % [95% interval]", _accuracy),
        matrix(report, "Cut off at max_new_tokens, % · accuracy of the others, % [95% interval]", _cut_off),
        *(_measured(report, measure, f"{measure.table} [95% interval]") for measure in MEASURES if measure.table),
        matrix(report, "KV cache, MiB · new tokens a second · share of the time spent in the agent", _cost),
    ]
    return [table for table in found if table.filled]


def page_tables(report: Report) -> list[Table]:
    """What a results page shows; without empty tables."""
    found = [
        matrix(report, "accuracy, %", _accuracy),
        matrix(report, "cut off, % · accuracy of the others, %", _cut_off),
        *(_measured(report, measure, measure.page) for measure in MEASURES if measure.page),
        matrix(report, "MiB · tokens/s · share in the agent", _cost),
    ]
    return [table for table in found if table.filled]


def _measured(report: Report, measure: Measure, title: str) -> Table:
    return matrix(report, title, lambda cell: entry_of(cell.measures[measure.key]))


def matrix(report: Report, title: str, entry: Callable[[CellReport], Entry]) -> Table:
    """A table of agents x budgets; empty where an agent did not run."""
    lines = []
    for agent in report.agents:
        cells = [report.cell(agent, budget) for budget in report.budgets]
        there = next(cell for cell in cells if cell is not None)
        entries = tuple(Entry() if cell is None else entry(cell) for cell in cells)
        lines.append(Line(agent, entries, there.ranked, there.uses_hindsight))
    return Table(title, tuple(map(str, report.budgets)), tuple(lines))


def text(report: Report) -> str:
    """The tables that the terminal shows, for a print."""
    return "\n\n".join(in_markdown(table, table.title) for table in tables(report))


def markdown(report: Report) -> str:
    """A results page: accuracy with intervals, loss ratios and cost per agent and budget, and the runs behind them."""
    head = (
        f"# Results on {report.env_id}\n\n{sample_text(report)} of the {report.split} split, model `{report.model}`. "
        "95% bootstrap intervals over problems; agents in italics are references, not ranked."
    )
    parts = [" ".join([head, *_gaps(report), *cut_off_notes(report)])]
    for table in page_tables(report):
        parts.append(in_markdown(table, table.title))
    return "\n\n".join([*parts, "## Runs", "\n".join(_run_text(run) for run in report.runs)])


def in_markdown(table: Table, corner: str) -> str:
    """A table as Markdown: `corner` heads its agents, of which references stand in italics."""
    names = (line.agent if line.ranked else f"*{line.agent}*" for line in table.lines)
    rows = ([name, *(entry.text for entry in line.entries)] for name, line in zip(names, table.lines, strict=True))
    return markdown_table([corner, *table.heads], rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [head, *rows]
    marks = "|---|" + "---:|" * (len(head) - 1)
    first, *others = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([first, marks, *others])


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "·": r"$\cdot$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def latex(report: Report, more: Sequence[Table] = ()) -> str:
    """The tables that the terminal shows, for a paper: `booktabs`, best agents in bold, references below a line."""
    parts = ["% Needs \\usepackage{booktabs}. Mean [95% bootstrap interval over problems]."]
    parts += [f"% {line}" for line in notes(report)]
    return "\n".join([*parts, *(in_latex(table) for table in [*tables(report), *more])])


def in_latex(table: Table) -> str:
    """A table as LaTeX, with its title as a comment."""
    ranked = [line for line in table.lines if line.ranked]
    others = [line for line in table.lines if not line.ranked]
    rows = [_latex_row(line) for line in ranked]
    if ranked and others:
        rows.append(r"\midrule")
    rows += [_latex_row(line) for line in others]
    heads = " & ".join(["agent", *map(_escaped, table.heads)])
    return "\n".join([
        "", f"% {table.title}", rf"\begin{{tabular}}{{l{'r' * len(table.heads)}}}", r"\toprule", rf"{heads} \\",
        r"\midrule", *rows, r"\bottomrule", r"\end{tabular}",
    ])  # fmt: skip


def _latex_row(line: Line) -> str:
    name = "{}" + _escaped(line.agent) if line.agent.startswith("[") else _escaped(line.agent)  # no option of a rule
    name = name if line.ranked else rf"\textit{{{name}}}"
    cells = (
        rf"\textbf{{{_escaped(one.text)}}}" if one.bold and one.text else _escaped(one.text) for one in line.entries
    )
    return " & ".join([name, *cells]) + r" \\"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def csv_text(report: Report) -> str:
    """A line for each cell with every number of the report: means, and both ends of their intervals."""
    out = io.StringIO()
    lines = [{"accuracy_mode": report.accuracy_mode, **_flat(cell)} for cell in report.cells]
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(cell: CellReport) -> dict[str, Any]:
    """The numbers of a cell by the names of columns; of an interval the mean, and `_ci_low` and `_ci_high`."""
    values = cell.to_json()
    families = values.pop("families")
    values |= {f"accuracy_{family}": value for family, value in families.items()}
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        ends = value if isinstance(value, dict) else {"value": value}
        flat += [(name if end == "value" else f"{name}_ci_{end}", number) for end, number in ends.items()]
    assert len(dict(flat)) == len(flat), "two numbers of a cell have one name"
    return dict(flat)


def versus_tables(report: Report, found: Sequence[Versus]) -> list[Table]:
    """Differences to a chosen agent; in bold those that Holm's correction leaves below 5%."""
    units = {"accuracy": ("points of accuracy", 100, 0), "loss": ("loss in nats a token", 1, 4)}
    made = []
    for one in found:
        what, factor, digits = units[one.measure]

        def entry(cell: CellReport, one: Versus = one, factor: int = factor, digits: int = digits) -> Entry:
            difference = one.of(cell.agent, cell.budget)
            if difference is None:
                return Entry()
            ends = (factor * getattr(difference.interval, end) for end in ("value", "low", "high"))
            value, low, high = (f"{end:+.{digits}f}" for end in ends)
            return Entry(f"{value} [{low}, {high}] p {p_text(difference.p_holm)}", difference.p_holm < SIGNIFICANT)

        title = (
            f"Difference to {one.against}, {what} [95% interval], p by sign flips, Holm-corrected (bold: below 0.05)"
        )
        made.append(matrix(report, title, entry))
    return [table for table in made if table.filled]


def p_text(p: float) -> str:
    """A p-value with one digit that counts."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def _run_text(run: dict[str, Any]) -> str:
    """A line on one run: command, source, machine."""
    git = run["git"] or {}
    source = f"commit {git['commit'][:8]}{' (changed)' if git.get('dirty') else ''}, " if git else ""
    libraries = "".join(f"{name} {run['versions'].get(name)}, " for name in ("torch", "transformers"))
    migrated = run.get("migrated") or {}
    later = f"; rows carried over to newer hashes on {str(migrated.get('date'))[:10]}" if migrated else ""
    return f"- `{run['command']}` ({source}{libraries}{run['threads']} threads, {run['hardware'].get('cpu')}{later})"


def failures(report: Report) -> list[str]:
    """A line for every cell in which the agent raised, or answers could not be graded."""
    return [
        f"{cell.agent}, budget {cell.budget}: {cell.n_failed} episodes failed and count as wrong. {cell.failure}"
        for cell in report.cells
        if cell.n_failed
    ]


def notes(report: Report, bold: bool = True) -> list[str]:
    """What a reader should know about the numbers; `bold`: whether they are shown where that can be seen."""
    lines = [f"{report.env_id}, {report.model}, {report.split}: {sample_text(report)}. Means over problems."]
    if bold and any(cell.versus_best for cell in report.cells if cell.ranked):
        lines.append("Bold: the best ranked agent, and those whose paired difference to it includes 0.")
    if any(not cell.ranked for cell in report.cells):
        lines.append("Below the line: references, not ranked. (hindsight) knows the future.")
    lines += [*_gaps(report), *cut_off_notes(report)]
    if report.n_other:
        lines.append(f"{report.n_other} rows of other settings, models or agent versions are in the file and not used.")
    commits = {str(run["git"] and run["git"]["commit"][:8]) for run in report.runs}
    if len(commits) > 1:
        lines.append(f"Rows come from different commits: {', '.join(sorted(commits))}.")
    return lines


def _gaps(report: Report) -> list[str]:
    """Where accuracy is of fewer problems than elsewhere, and so of other texts; and how many cannot be played."""
    fewer = []
    for budget in report.budgets:
        counts = {cell.agent: cell.n_problems for cell in report.cells if cell.budget == budget and cell.n_problems}
        most = max(counts.values(), default=report.n_problems)
        if most < report.n_problems:
            fewer.append(f"{most} at budget {budget}")
        fewer += [f"{n} for {agent} at budget {budget}" for agent, n in counts.items() if n < most]
    left_out = [f"{len(names)} at budget {budget}" for budget, names in sorted(report.left_out.items()) if names]
    told = {"Accuracy of fewer problems": fewer, "Left out, too short or too long to play": left_out}
    return [f"{what}: {', '.join(where)}." for what, where in told.items() if where]


def cut_off_notes(report: Report) -> list[str]:
    """Which agents had more episodes cut off than may be: such a number is also one of max_new_tokens."""
    where: dict[str, list[str]] = {}
    for cell in report.cells:
        if cell.cut_off is not None and cell.cut_off > MOST_CUT_OFF:
            where.setdefault(cell.agent, []).append(f"{100 * cell.cut_off:.0f}% at {cell.budget}")
    if not where:
        return []
    listed = "; ".join(f"{agent} {', '.join(shares)}" for agent, shares in where.items())
    return [
        f"More than {100 * MOST_CUT_OFF:.0f}% of the episodes were cut off at max_new_tokens and count by what was "
        f"written until then: {listed}. A larger max_new_tokens tells whether they would have ended."
    ]


def sample_text(report: Report) -> str:
    """How much a report is measured on."""
    seeds = "" if report.n_seeds == 1 else f" x {report.n_seeds} seeds"
    return f"{report.n_problems} problems{seeds}"


def _accuracy(cell: CellReport) -> Entry:
    if cell.accuracy is None:
        return Entry()
    mark = "!" if cell.n_failed else ""
    with_best = cell.ranked and (cell.versus_best is None or cell.versus_best.high >= 0)
    return Entry(f"{mark}{percent(cell.accuracy)}", with_best)


def _cut_off(cell: CellReport) -> Entry:
    """Nothing where no episode was cut off."""
    if not cell.cut_off:
        return Entry()
    others = "" if cell.finished_accuracy is None else f" · {percent(cell.finished_accuracy)}"
    return Entry(f"{100 * cell.cut_off:.0f}{others}")


def percent(interval: Interval, digits: int = 0) -> str:
    """A share with its interval, %."""
    value, low, high = (f"{100 * x:.{digits}f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def entry_of(interval: Interval | None) -> Entry:
    """A number with its interval; nothing where there is none."""
    if interval is None:
        return Entry()
    return Entry(f"{short(interval.value)} [{short(interval.low)}, {short(interval.high)}]")


def _cost(cell: CellReport) -> Entry:
    size = "" if cell.kv_bytes_peak is None else short(cell.kv_bytes_peak / 2**20)
    speed = "" if cell.tokens_per_second is None else f" · {cell.tokens_per_second:,.0f}"
    scoring = "" if cell.scoring_share is None else f" · {100 * cell.scoring_share:.0f}%"
    return Entry(size + speed + scoring)


def short(value: float) -> str:
    """Write a number with three digits: 0.0123, 1.23, 12.3, 123, 1.23e+04."""
    if value == 0:
        return "0"
    if abs(value) >= 9999.5 or abs(value) < 0.001:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
