"""`kv-gym migrate`: give stored rows the hashes of this version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import console, say, watched
from kv_gym.commands.options import build_agent
from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from kv_gym.bench.migrate import MigratedCell


def migrate(
    rows: Annotated[Path, typer.Argument(help="A rows.jsonl or rows.jsonl.gz that `kv-gym bench` wrote.")],
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="An agent of the rows that is not installed, or has other options than its own; repeat for more. "
            "Installed ones are always looked for.",
        ),
    ] = None,
    sample: Annotated[int, typer.Option(help="Episodes of each agent, budget and mode that are played again.")] = 4,
) -> None:
    """Carry rows of an older version over, where playing a sample of them again gives what is written down.

    A row is reused only if all that decides it is the same, down to the agent's file. After an edit that moves
    nothing, or an update of kv-gym, this saves making every number again. Exits with 1 if some rows stay as they are;
    `kv-gym bench` plays those again.
    """
    if sample < 1:
        raise ConfigError(f"sample={sample} proves nothing. Use a whole number from 1 on.")
    if not rows.is_file():
        raise ConfigError(f"{rows} is no file. Name a rows.jsonl or rows.jsonl.gz.")
    from kv_gym.agents import agent_entries
    from kv_gym.bench.migrate import migrate as carry_over

    agents = [build_agent(text) for text in [*agent_entries(), *(agent or [])]]
    cells = watched(lambda progress: carry_over(rows, agents, sample, progress), rows)
    if not cells:
        say("All rows are of this version already.")
        return
    console().print(_table(cells))
    over = sum(cell.n_rows for cell in cells if not cell.kept)
    say(f"{over} of {sum(cell.n_rows for cell in cells)} rows carried over: {rows}")
    if any(cell.kept for cell in cells):
        raise typer.Exit(1)


def _table(cells: list[MigratedCell]) -> Table:
    """A line for each agent and mode; cells that stay as they are get their own."""
    from rich.table import Table

    table = Table("agent", "mode", "budgets", "rows", "played again", "", box=None, pad_edge=False, header_style="bold")
    groups: dict[tuple[str, str, str], list[MigratedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.agent, cell.mode, cell.kept), []).append(cell)
    for (agent, mode, kept), group in groups.items():
        budgets = ", ".join(str(cell.budget) for cell in group)
        counts = (str(sum(cell.n_rows for cell in group)), str(sum(cell.n_sampled for cell in group)))
        table.add_row(agent, mode, budgets, *counts, f"stay as they are: {kept}" if kept else "carried over")
    return table
