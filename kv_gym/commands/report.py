"""`kv-gym report`: sum up what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import console, report_view, say, table_view
from kv_gym.errors import ConfigError
from kv_gym.files import ROWS_FILE

if TYPE_CHECKING:
    from kv_gym.bench.report import Report
    from kv_gym.bench.rows import EpisodeRow, Rows, RunRow
    from kv_gym.bench.tables import Table

REPORT_FILE, PLOT_FILE = "report.json", "accuracy.png"
MAX_ANSWER_CHARS = 40  # in a table


def report(
    rows: Annotated[
        list[Path],
        typer.Argument(help="A rows.jsonl(.gz) that `kv-gym bench` wrote, or its folder; several count as one."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print accuracy, loss ratio and cost as Markdown tables.")
    ] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print the tables for a paper (booktabs).")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print every number, families too, as CSV: a line for each agent and budget.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Save accuracy against budget to this picture: .png, .svg or .pdf.")
    ] = None,
    lost: Annotated[
        str | None, typer.Option(metavar="AGENT", help="List the problems that this agent lost and --against solved.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="AGENT",
            help="Show each agent's paired difference to this one, with p-values; with --lost: who solved it.",
        ),
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(help="Goes with --lost or --tokens: only this budget; repeat for more. Default: all."),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Tell which replayed tokens agents lose, of rows made with --texts.")
    ] = False,
) -> None:
    """Sum rows up: those with the env, model and settings of the last row, with the newest version of each agent.

    Several folders count as one, such as the shards of a benchmark that was played on several machines.

    With --against: differences to that agent on the same problems, with 95% intervals and p-values (sign flips over
    problems, Holm-corrected over each table).

    With --lost and --against: which problems the one lost and the other solved, and the command that records both.

    With --tokens: what agents lose on tokens that need what is far back, and on the others; the rows of `full` and
    `streaming` tell them apart.
    """
    forms = {
        "--json": as_json, "--markdown": as_markdown, "--latex": as_latex, "--csv": as_csv, "--plot": plot is not None,
    }  # fmt: skip
    _check_options(lost, against, budget, tokens, forms)
    from kv_gym.bench.curves import check_picture
    from kv_gym.bench.report import build_report

    if plot is not None:
        check_picture(plot)

    if len(rows) > 1 and (tokens or lost is not None):
        option = "--tokens" if tokens else "--lost"
        raise ConfigError(f"{option} reads what lies beside the rows of one folder; {len(rows)} were given. Give one.")
    chosen, found, path = stored_rows(*rows)
    if tokens:
        n_other = len(found.episodes) - len(chosen)
        _show_tokens(chosen, path.parent, budget or [], n_other, as_json, as_markdown)
        return
    if lost is not None and against is not None:
        _show_lost(chosen, found.runs, lost, against, budget or [], path.parent)
        return
    summed = build_report(chosen, found.runs.values(), len(found.episodes) - len(chosen))
    compared = _compared(chosen, summed, against)
    for asked, form in ((as_markdown, "markdown"), (as_latex, "latex"), (as_csv, "csv")):
        if asked:
            print(_printed(summed, compared, form))
            return
    show(summed, as_json, plot)
    for table in compared if not as_json else []:
        console().print(table_view(table))


def _compared(rows: list[EpisodeRow], summed: Report, against: str | None) -> list[Table]:
    """Tables of the differences to an agent, if one is named."""
    if against is None:
        return []
    from kv_gym.bench.tables import versus_tables
    from kv_gym.bench.versus import versus

    return versus_tables(summed, versus(rows, against))


def _printed(summed: Report, compared: list[Table], form: str) -> str:
    """A report as text to paste."""
    from kv_gym.bench import tables

    if form == "csv":
        return tables.csv_text(summed).rstrip("\n")
    if form == "latex":
        return tables.latex(summed, compared)
    return "\n\n".join([tables.markdown(summed), *(tables.in_markdown(table, table.title) for table in compared)])


def _check_options(
    lost: str | None, against: str | None, budget: list[int] | None, tokens: bool, forms: dict[str, bool]
) -> None:
    """Refuse options that would change nothing beside the others.

    Raises:
        ConfigError: Says which.
    """
    given = [form for form, asked in forms.items() if asked]
    if lost is not None and against is None:
        raise ConfigError("--lost AGENT wants --against AGENT: who solved what was lost.")
    if against is not None and lost is None and (tokens or forms["--csv"] or forms["--json"]):
        raise ConfigError("--against AGENT makes tables, for which there is no --tokens, --csv or --json. Drop one.")
    if lost is None and budget and not tokens:
        raise ConfigError(
            "--budget chooses among the problems of --lost AGENT --against AGENT, or goes with --tokens. Add one of "
            "them, or drop it."
        )
    if tokens and (lost is not None or forms["--plot"]):
        other = "--plot" if lost is None else "--lost"
        raise ConfigError(f"--tokens prints tables of losses, for which there is no {other}. Drop one of them.")
    if lost is not None and given:
        raise ConfigError(f"--lost prints a list, for which there is no {', '.join(given)}. Drop one of them.")
    if tokens and (forms["--latex"] or forms["--csv"]):
        raise ConfigError("--tokens prints tables, --json or --markdown. Drop --latex or --csv.")
    texts = [form for form in given if form in ("--markdown", "--latex", "--csv")]
    if texts and len(given) > 1:
        raise ConfigError(
            f"{texts[0]} prints a text and nothing else, and {', '.join(given)} were given. Use one alone."
        )


def stored_rows(*places: Path) -> tuple[list[EpisodeRow], Rows, Path]:
    """The rows of files, or of folders, that belong together; all that the files hold; and the path of the last one.

    Raises:
        RowFileError: There is no such file, it is damaged, or none holds an episode.
    """
    from kv_gym.bench.report import newest_rows
    from kv_gym.bench.rows import RowFileError, Rows, read_rows

    found, path = Rows({}, {}), Path()
    for place in places:
        path = place / ROWS_FILE if place.is_dir() else place
        if place.is_dir() and not path.exists():
            path = path.with_name(f"{ROWS_FILE}.gz")
        part = read_rows(path)
        found.runs.update(part.runs)
        for row in part.episodes.values():
            found.add(row)
    chosen = newest_rows(found)
    if not chosen:
        raise RowFileError(f"{path} holds no episodes yet. Run `kv-gym bench` first.")
    return chosen, found, path


def _show_lost(
    rows: list[EpisodeRow], runs: dict[str, RunRow], loser: str, solver: str, budgets: list[int], folder: Path
) -> None:
    """Print the problems that one agent lost and another solved, with what each answered where texts are kept."""
    from rich.table import Table

    from kv_gym.bench.lost import lost_episodes, record_command
    from kv_gym.bench.texts import answers

    _check_budgets(rows, budgets, "generate")
    found = lost_episodes(rows, loser, solver, budgets)
    if not found:
        say(f"{loser} lost nothing that {solver} solved.")
        return
    said = answers(folder)
    seeds = ("seed",) if len({one.loser.seed for one in found}) > 1 else ()
    columns = ("budget", "problem", *seeds, "family", f"{loser}: ended by", f"{solver}: ended by")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for one in found:
        ends = (_end(row, said) for row in (one.loser, one.solver))
        seed = (str(one.loser.seed),) if seeds else ()
        table.add_row(str(one.loser.budget), one.loser.problem, *seed, one.loser.family, *ends)
    console().print(table)
    print(f"{len(found)} episodes. To see why, record both agents on the first and open the page:")
    command = record_command(found[0], runs)
    print(f"{command}\nkv-gym replay runs/lost/*.json.gz --html runs/lost/episode.html")


def _check_budgets(rows: list[EpisodeRow], budgets: list[int], mode: str) -> None:
    """Refuse a budget at which nothing was played in a mode.

    Raises:
        ConfigError: Says which there are.
    """
    there = sorted({row.budget for row in rows if row.mode == mode})
    gone = [budget for budget in budgets if budget not in there]
    if gone:
        raise ConfigError(
            f"--budget {', '.join(map(str, gone))}: these rows have none in {mode} mode. There are "
            f"{', '.join(map(str, there)) or 'no rows in that mode'}."
        )


def _show_tokens(
    rows: list[EpisodeRow], folder: Path, budgets: list[int], n_other: int, as_json: bool, as_markdown: bool
) -> None:
    """Print what agents lose on which tokens."""
    from rich.text import Text

    from kv_gym.bench.token_report import build_token_report, token_markdown, token_notes, token_tables

    _check_budgets(rows, budgets, "replay")
    chosen = [row for row in rows if not budgets or row.budget in budgets]
    summed = build_token_report(chosen, folder, n_other)
    if as_json or as_markdown:
        print(json.dumps(summed.to_json(), indent=1) if as_json else token_markdown(summed))
        return
    for table in token_tables(summed, split=True):
        console().print(table_view(table))
    for line in token_notes(summed):
        console().print(Text(line, style="dim"))


def _end(row: EpisodeRow, answers: dict[str, str | None]) -> str:
    """How an episode ended, and with which answer where its text is kept."""
    from kv_gym.bench.texts import text_key

    if row.failed is not None:
        return "failed"
    ended = f"{row.stop}, {row.n_tokens} tokens"
    if text_key(row) not in answers:
        return ended
    answer = answers[text_key(row)]
    return f"{ended}, " + ("no answer" if answer is None else f"answer {answer[:MAX_ANSWER_CHARS]!r}")


def save_json(report: Report, path: Path) -> None:
    """Write a report in one piece."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    temporary.replace(path)


def show(report: Report, as_json: bool, plot: Path | None) -> None:
    """Print a report, as tables or as JSON, and save its plot."""
    from kv_gym.bench.plots import save_plot

    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        console().print(report_view(report))
    if plot is not None:
        save_plot(report, plot)
        say(f"plot: {plot}")
