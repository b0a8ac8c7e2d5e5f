"""`kv-gym agreement`: whether two sets of rows rank agents alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import console, say
from kv_gym.commands.report import stored_rows
from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from kv_gym.bench.agreement import Agreement


def agreement(
    rows_a: Annotated[Path, typer.Argument(help="A rows.jsonl(.gz), or its folder.")],
    rows_b: Annotated[Path, typer.Argument(help="Another: of another environment, model or mode.")],
    by: Annotated[
        str, typer.Option(help="`loss_ratio` or another measure of replay, or `accuracy`; of both sets.")
    ] = "loss_ratio",
    by_b: Annotated[str | None, typer.Option(help="What the second set is ranked by. Default: as the first.")] = None,
    budget_a: Annotated[list[int] | None, typer.Option(help="Budget of the first set; repeat. Default: all.")] = None,
    budget_b: Annotated[list[int] | None, typer.Option(help="Budget of the second set; repeat. Default: all.")] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(help="Agents to compare; repeat. Default: all rules in both, untrained."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare two rankings: Kendall's tau with a 95% interval, for each pair of budgets.

    1: the same order. 0: the one tells nothing of the other. -1: the opposite order. With one pair of budgets the
    agents are listed too.
    """
    from kv_gym.bench.agreement import agree, rank, rules

    one, other = stored_rows(rows_a)[0], stored_rows(rows_b)[0]
    names = rules(one, other, agent or [])
    budgets = [
        list(dict.fromkeys(given or sorted({row.budget for row in rows})))
        for given, rows in ((budget_a, one), (budget_b, other))
    ]
    ranked = [
        [found for budget in chosen if (found := rank(rows, names, budget, key)) is not None]
        for rows, chosen, key in zip((one, other), budgets, (by, by_b or by), strict=True)
    ]
    for path, there, key in zip((rows_a, rows_b), ranked, (by, by_b or by), strict=True):
        if not there:
            raise ConfigError(
                f"{path}: there is no budget at which all of {', '.join(names)} have {key}. Name fewer with --agent."
            )
    results = [[agree(a, b) for b in ranked[1]] for a in ranked[0]]
    if as_json:
        print(json.dumps([_as_json(result) for line in results for result in line], indent=1))
        return
    console().print(_matrix(results))
    if len(results) == len(results[0]) == 1:
        console().print(_agents(results[0][0]))
    say(f"{len(names)} agents: {', '.join(names)}.")


def _as_json(result: Agreement) -> dict[str, object]:
    tau = result.tau
    return {
        "budgets": [result.one.budget, result.other.budget],
        "problems": [result.one.n_problems, result.other.n_problems],
        "tau": {"value": tau.value, "low": tau.low, "high": tau.high},
        "agents": {
            name: [abs(float(a)), abs(float(b))]
            for name, a, b in zip(result.one.agents, result.one.values, result.other.values, strict=True)
        },
    }


def _matrix(results: list[list[Agreement]]) -> Table:
    """Tau by budget: of the first set down, of the second across."""
    from rich.table import Table

    heads = (f"{found.other.budget} ({found.other.n_problems} problems)" for found in results[0])
    table = Table("tau [95% interval]", *heads, box=None, pad_edge=False, header_style="bold")
    for line in results:
        cells = (f"{found.tau.value:+.2f} [{found.tau.low:+.2f}, {found.tau.high:+.2f}]" for found in line)
        table.add_row(f"{line[0].one.budget} ({line[0].one.n_problems} problems)", *cells)
    return table


def _agents(result: Agreement) -> Table:
    """Agents by their rank in the first set."""
    from rich.table import Table

    columns = ("agent", f"first, {result.one.budget} slots", "rank", f"second, {result.other.budget} slots", "rank")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    values = [ranked.values.tolist() for ranked in (result.one, result.other)]
    ranks = [[1 + sum(other > mine for other in side) for mine in side] for side in values]
    for i in sorted(range(len(values[0])), key=lambda i: ranks[0][i]):
        cells = ((f"{abs(values[side][i]):.3g}", str(ranks[side][i])) for side in (0, 1))
        table.add_row(result.one.agents[i], *(text for pair in cells for text in pair))
    return table
