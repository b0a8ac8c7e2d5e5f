"""`kv-gym leaderboard`: rank a folder of submissions, build the site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import console, say
from kv_gym.leaderboard.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from kv_gym.bench.intervals import Interval
    from kv_gym.leaderboard.rank import Board, Standing

SUBMISSIONS = Path("leaderboards/submissions")
SITE = Path("leaderboards/site/index.html")
README = Path("leaderboards/README.md")
PREVIEW = Path("runs/preview.html")

leaderboard_app = typer.Typer(help="Rank submissions and build the site.", no_args_is_help=True)


@leaderboard_app.command()
def rank(
    folder: Annotated[Path, typer.Argument(help="Folder that holds submissions.")] = SUBMISSIONS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the board as JSON.")] = False,
) -> None:
    """Rank submissions: score from random eviction (0) to the full cache (100), with 95% intervals."""
    from kv_gym.leaderboard.protocol import read_protocol
    from kv_gym.leaderboard.rank import build_board, read_submissions

    board = build_board(read_submissions(folder), read_protocol())
    if as_json:
        print(json.dumps(board.to_json(), indent=1))
        return
    console().print(board_table(board))
    for note in notes(board, folder):
        say(note)


@leaderboard_app.command()
def build(
    submissions: Annotated[Path, typer.Option(help="Folder that holds submissions.")] = SUBMISSIONS,
    preview: Annotated[
        Path | None, typer.Option(help="Show this submission too, a trial as well; the README is not written.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"The site, one HTML file. Default: {SITE}; of a preview {PREVIEW}.")
    ] = None,
    readme: Annotated[Path, typer.Option(help="The ranking as Markdown.")] = README,
) -> None:
    """Write the site and the README of the leaderboard; the same submissions give the same bytes."""
    from kv_gym.leaderboard.protocol import read_protocol
    from kv_gym.leaderboard.rank import add_preview, build_board, read_submissions
    from kv_gym.leaderboard.readme import readme as readme_text
    from kv_gym.leaderboard.site import page

    protocol, found = read_protocol(), read_submissions(submissions)
    if preview:
        found = add_preview(found, preview)
    board = build_board(found, protocol)
    texts = {out or (PREVIEW if preview else SITE): page(board, found, protocol)}
    if not preview:
        texts[readme] = readme_text(board, protocol)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        say(f"{len(board.standings)} lines: {path}")


def board_table(board: Board) -> Table:
    """The board for the terminal; what submitters wrote is plain text."""
    from rich.table import Table
    from rich.text import Text

    heads = ["rank", "division", "title", "agent", "kind", "score", "over the next"]
    several = len({cell.env_id for cell in board.cells}) > 1
    heads += [f"{cell.env_id} {cell.budget}" if several else str(cell.budget) for cell in board.cells]
    table = Table(*heads, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for one in board.standings:
        accuracies = [f"{cell.accuracy.value:.0%}" if cell.accuracy else "" for cell in one.cells]
        cells = [
            _rank(one),
            one.division,
            one.title,
            one.agent,
            one.kind,
            _text(one.score),
            _text(one.better_than_next),
        ]
        table.add_row(*(Text(printable(cell)) for cell in [*cells, *accuracies]), style=None if one.rank else "dim")
    return table


def notes(board: Board, folder: Path) -> list[str]:
    """What a reader of the table should know."""
    if not board.standings:
        return [f"{folder} holds no submissions ({board.n_trials} trials)."]
    found = [
        "Score: 0 is random eviction, 100 the full cache; mean over budgets, then envs. 95% intervals over problems.",
        "Rank: from 1 + the entries of the division that are better (paired 95% interval above 0) to as many further "
        "down as there are entries not told apart from it.",
    ]
    found += [f"{printable(one.title)}: {printable('; '.join(one.missing))}" for one in board.of_role("incomplete")]
    return [*found, f"{board.n_trials} trials left out."] if board.n_trials else found


def _rank(one: Standing) -> str:
    return one.ranks or one.role


def _text(interval: Interval | None) -> str:
    if interval is None:
        return ""
    value, low, high = (round(number, 1) + 0.0 for number in (interval.value, interval.low, interval.high))  # no -0.0
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
