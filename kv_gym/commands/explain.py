"""`kv-gym explain`: what an agent evicts and would have needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import BarProgress, console, say
from kv_gym.commands.options import build_agent, split_name
from kv_gym.commands.report import stored_rows
from kv_gym.errors import ConfigError, KVGymError, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from kv_gym.agents import AgentLike
    from kv_gym.bench.rows import EpisodeRow, RunRow
    from kv_gym.show.explain.explanation import Explanation
    from kv_gym.show.explain.tables import Grid


def explain(
    rows: Annotated[
        list[Path],
        typer.Argument(help="A rows.jsonl(.gz) that `kv-gym bench` wrote, or its folder; several count as one."),
    ],
    agent: Annotated[
        str,
        typer.Option(
            metavar="AGENT", help="Who is explained: its name in these rows, or, of a file, as `kv-gym bench` takes it."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Another one of these rows, on the same texts.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Slots. Default: the lowest at which they played.")] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="How many of the rows' episodes are played again, families in turn.")
    ] = 8,
    plot: Annotated[Path | None, typer.Option(help="Save a picture: .png, .svg or .pdf.")] = None,
    html: Annotated[Path | None, typer.Option(help="Save a page, one file that needs no network.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Explain what an agent evicts and would have needed: by token, age, family, layer and KV head.

    Rows do not hold evictions, so some of their episodes are played again, in replay: on the text that the full cache
    wrote, of which is known what will be attended to. The problems won and lost are those of all rows.
    """
    from kv_gym.bench.curves import check_picture
    from kv_gym.show.explain.explaining import budget_of
    from kv_gym.show.explain.explaining import explain as explained

    if plot is not None:
        check_picture(plot)
    chosen, stored, _ = stored_rows(*rows)
    asked = [agent] if against is None else [agent, against]
    players = dict(_player(text, chosen, stored.runs) for text in asked)
    if len(players) < len(asked):
        raise ConfigError(f"--agent {agent!r} and --against {against!r} are one and the same. Name two, or one.")
    first = next(iter(players))
    if not players[first].evicts:
        raise ConfigError(f"agent {first!r} evicts nothing, so there is nothing to explain. Choose another one.")
    slots = budget_of(chosen, list(players), budget)
    with BarProgress() as progress:
        found = explained(chosen, stored.runs, players, slots, episodes, progress)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    _save(found, _why(found, chosen, stored.runs), plot, html)


def _player(text: str, rows: list[EpisodeRow], runs: dict[str, RunRow]) -> tuple[str, AgentLike]:
    """An agent of these rows by its label, or as it is typed for `kv-gym bench`: (label, built as it was).

    Raises:
        UnknownNameError: There is none.
        ConfigError: It is of a file that is not found.
    """
    from kv_gym.bench.labels import labels
    from kv_gym.bench.lost import agent_text
    from kv_gym.identity import identity_of

    label = labels(rows)
    by_label = {label[row.agent, row.agent_source]: row for row in rows}
    if text in by_label:
        row = by_label[text]
        typed = agent_text(row, runs[row.run_id])
        try:
            agent = build_agent(typed)
        except KVGymError as error:
            raise ConfigError(
                f"the agent {text!r} of these rows cannot be built from {typed!r}: {error} Name it as `kv-gym bench` "
                "took it, such as --agent path/to/mine.py:MyAgent."
            ) from error
    else:
        if "," not in text and ".py" not in text and split_name(text)[1] is None:
            raise unknown_name("agent in these rows", text, by_label)
        agent = build_agent(text)
        mine = [one for one, row in by_label.items() if row.agent == agent.name]
        same = [one for one in mine if by_label[one].agent_sha256 == identity_of(agent).sha256]
        if not mine:
            raise unknown_name("agent in these rows", agent.name, by_label)
        text = (same or mine)[0]
    if identity_of(agent).sha256 != by_label[text].agent_sha256:
        say(f"{text} is another now than when these rows were played: its code, options or weights. Today's is shown.")
    return text, agent


def _why(found: Explanation, rows: list[EpisodeRow], runs: dict[str, RunRow]) -> str | None:
    """What is typed to see the first problem that was lost by its answer; None where none was."""
    from kv_gym.bench.lost import lost_episodes, record_command

    if found.duel is None or found.duel.measure != "accuracy":
        return None
    lost = lost_episodes(rows, found.duel.ours, found.duel.theirs, [found.budget])
    if not lost:
        return None
    return f"{record_command(lost[0], runs)}\nkv-gym replay runs/lost/*.json.gz --html runs/lost/episode.html"


def _print(found: Explanation) -> None:
    from rich.text import Text

    from kv_gym.show.explain.tables import grids, told

    for grid in grids(found):
        console().print(_view(grid))
    for line in told(found):
        console().print(Text(line, style="dim"))


def _view(grid: Grid) -> Table:
    from rich import box, table

    title = None if grid.title == grid.heads[0] else grid.title  # which says it already
    view = table.Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False)
    for i, head in enumerate(grid.heads):
        view.add_column(head, justify="left" if i == 0 or head == "agent" else "right", overflow="fold")
    for line in grid.lines:
        view.add_row(*line)
    return view


def _save(found: Explanation, command: str | None, plot: Path | None, html: Path | None) -> None:
    from kv_gym.show.explain.page import build_page
    from kv_gym.show.explain.plot import save_explanation_plot

    if plot is not None:
        save_explanation_plot(found, plot)
        say(f"plot: {plot}")
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(build_page(found, command), encoding="utf-8")
        say(f"page: {html}")
