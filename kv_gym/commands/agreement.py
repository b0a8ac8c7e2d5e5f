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

    from kv_gym.bench.agreement import Agreement, Ranked
    from kv_gym.bench.rows import EpisodeRow


def agreement(
    rows_a: Annotated[Path, typer.Argument(help="A rows.jsonl(.gz), or its folder.")],
    rows_b: Annotated[Path, typer.Argument(help="Another: of another environment, model or mode.")],
    by: Annotated[
        str,
        typer.Option(
            help="`loss_ratio` or another measure of replay, `accuracy`, or of rows made with --texts `long_range`, "
            "`elsewhere`, `newly_lost` (`kv-gym report --tokens`); of both sets."
        ),
    ] = "loss_ratio",
    by_b: Annotated[str | None, typer.Option(help="What the second set is ranked by. Default: as the first.")] = None,
    budget_a: Annotated[list[int] | None, typer.Option(help="Budget of the first set; repeat. Default: all.")] = None,
    budget_b: Annotated[list[int] | None, typer.Option(help="Budget of the second set; repeat. Default: all.")] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(help="Agents to compare; repeat. Default: all rules in both, untrained."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw both rankings beside each other: .png, .svg or .pdf. For one pair of budgets."),
    ] = None,
    title: Annotated[
        list[str] | None, typer.Option(help="What the plot calls the sets; twice. Default: the folders' names.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare two rankings: Kendall's tau with a 95% interval, for each pair of budgets.

    1: the same order. 0: the one tells nothing of the other. -1: the opposite order. With one pair of budgets the
    agents are listed too.
    """
    from kv_gym.bench.agreement import agree, judges, rules

    keys = (by, by_b or by)
    (one, _, path_a), (other, _, path_b) = stored_rows(rows_a), stored_rows(rows_b)
    names = rules(one, other, agent or [], judges(keys))
    ranked = [
        _ranked(rows, path, names, budgets, key)
        for rows, path, budgets, key in zip((one, other), (path_a, path_b), (budget_a, budget_b), keys, strict=True)
    ]
    results = [[agree(a, b) for b in ranked[1]] for a in ranked[0]]
    if plot is not None:
        _save_plot(results, title or [path_a.parent.name, path_b.parent.name], plot)
    if as_json:
        print(json.dumps([_as_json(result) for line in results for result in line], indent=1))
        return
    console().print(_matrix(results))
    if len(results) == len(results[0]) == 1:
        console().print(_agents(results[0][0]))
    say(f"{len(names)} agents: {', '.join(names)}.")


def _save_plot(results: list[list[Agreement]], names: list[str], path: Path) -> None:
    """Draw the one pair of rankings.

    Raises:
        ConfigError: There are several, or names of one set only.
    """
    from kv_gym.bench.curves import check_picture
    from kv_gym.bench.plots import save_agreement_plot

    check_picture(path)
    if len(results) > 1 or len(results[0]) > 1:
        raise ConfigError(f"--plot {path} is of one pair of budgets. Name them with --budget-a and --budget-b.")
    if len(names) != 2:
        raise ConfigError(f"--title was given {len(names)} times; the plot has two sets. Give it for both.")
    save_agreement_plot(results[0][0], (names[0], names[1]), path)
    say(f"plot: {path}")


def _ranked(
    rows: list[EpisodeRow], path: Path, names: tuple[str, ...], budgets: list[int] | None, by: str
) -> list[Ranked]:
    """How the agents of one set do at each of its budgets.

    Raises:
        ConfigError: There is none at which all have been measured.
    """
    from kv_gym.bench.agreement import rank
    from kv_gym.bench.token_losses import TOKEN_MEASURES, token_sums

    chosen = list(dict.fromkeys(budgets or sorted({row.budget for row in rows})))
    there = [row for row in rows if row.budget in chosen]
    tokens = token_sums(there, path.parent) if by in {measure.key for measure in TOKEN_MEASURES} and there else {}
    ranked = [found for budget in chosen if (found := rank(rows, names, budget, by, tokens)) is not None]
    if not ranked:
        raise ConfigError(
            f"{path}: there is no budget at which all of {', '.join(names)} have {by}. Name fewer with --agent."
        )
    return ranked


def _as_json(result: Agreement) -> dict[str, object]:
    tau = result.tau
    return {
        "by": [result.one.by, result.other.by],
        "budgets": [result.one.budget, result.other.budget],
        "problems": [result.one.n_problems, result.other.n_problems],
        "tau": {"value": tau.value, "low": tau.low, "high": tau.high},
        "agents": {
            name: [a, b] for name, a, b in zip(result.one.agents, result.one.numbers, result.other.numbers, strict=True)
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

    heads = (f"{side.by} at {side.budget} slots" for side in (result.one, result.other))
    columns = ("agent", *(part for head in heads for part in (head, "rank")))
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    numbers = (result.one.numbers, result.other.numbers)
    values = [ranked.values.tolist() for ranked in (result.one, result.other)]
    ranks = [[1 + sum(other > mine for other in side) for mine in side] for side in values]
    for i in sorted(range(len(values[0])), key=lambda i: ranks[0][i]):
        cells = ((f"{numbers[side][i]:.3g}", str(ranks[side][i])) for side in (0, 1))
        table.add_row(result.one.agents[i], *(text for pair in cells for text in pair))
    return table
