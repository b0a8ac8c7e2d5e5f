"""`kv-gym sweep`: one agent over the values of its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_gym.commands.bench import ModeChoice, modes_of
from kv_gym.commands.console import console, say, watched
from kv_gym.commands.options import (
    ChunkSeconds,
    RayAddress,
    Settings,
    WorkerCount,
    parse_agent,
    parse_pairs,
    parse_settings,
    parse_width,
    parse_workers,
    split_name,
)
from kv_gym.errors import ConfigError
from kv_gym.files import ROWS_FILE

if TYPE_CHECKING:
    from rich.table import Table

    from kv_gym.bench.sweep import Point


def sweep(
    env_id: Annotated[str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them.")],
    agent: Annotated[
        str, typer.Option(metavar="NAME[,KEY=VALUE...]", help="As `kv-gym bench` takes it, with what stays the same.")
    ],
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUE,...", help="An option and its values; of several, all combinations."),
    ],
    budget: Annotated[list[int] | None, typer.Option(help="Slots; repeat for more. Default: the env's page.")] = None,
    problems: Annotated[int | None, typer.Option(help="First problems of the test split. Default: the page.")] = None,
    problem_seeds: Annotated[int, typer.Option(help="Made problems only: of so many problem seeds.")] = 1,
    mode: Annotated[ModeChoice, typer.Option(help="generate measures accuracy, replay losses.")] = ModeChoice.both,
    width: Annotated[str, typer.Option(help="Episodes side by side, or auto.")] = "auto",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    chunk_seconds: ChunkSeconds = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the rows. Default: runs/sweeps/AGENT.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="A curve over one option, a heat map over two: .png, .svg or .pdf.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Measure one agent with every combination of some options.

    Problems are the same for all of them, and rows are kept as those of `kv-gym bench`: the same command goes on, and
    further values add to what is there. Choose by other problems than those that you report.
    """
    from kv_gym.agents import load_agent, rename
    from kv_gym.bench.benchmark import run_bench
    from kv_gym.bench.curves import check_picture
    from kv_gym.bench.plan import Bench
    from kv_gym.bench.sweep import points, save_sweep_plot
    from kv_gym.bench.sweep import settings as combinations

    if plot is not None:
        check_picture(plot)
    typed, other = split_name(agent)
    name, fixed = parse_agent(typed)
    chosen = combinations(parse_over(over, fixed))
    if plot is not None and len(over) > 2:
        raise ConfigError(f"--plot shows one option or two, and {len(over)} are swept. Leave it out.")
    loaded = [load_agent(name, **fixed, **options) for options in chosen]
    loaded = loaded if other is None else [rename(one, other) for one in loaded]
    plan = Bench(
        env_id, loaded, budget or [], problems, modes=modes_of(mode), width=parse_width(width),
        options=parse_settings(settings or []) | {"split": "test"}, problem_seeds=problem_seeds,
    )  # fmt: skip
    path = (out or Path("runs") / "sweeps" / loaded[0].name) / ROWS_FILE
    crew = parse_workers(workers, ray, chunk_seconds)
    result = watched(lambda progress: run_bench(plan, path, progress, crew), path)
    found = points(plan, result, chosen)
    if not found:
        raise ConfigError("none of the problems can be played at these budgets. Use smaller ones.")
    console().print(_table(found))
    if plot is not None:
        save_sweep_plot(found, plot)
        say(f"plot: {plot}")
    say(f"{result.n_new} new rows, {len(result.rows) - result.n_new} known: {path}")


def parse_over(texts: Sequence[str], fixed: dict[str, Any]) -> dict[str, list[Any]]:
    """Read KEY=VALUE,VALUE...

    Raises:
        ConfigError: No `=`, an option that is named twice, or that --agent has already.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ConfigError(f"--over {text!r} is no option with values. Use KEY=VALUE,VALUE, such as lam=0,0.1,0.5.")
        if key in found or key in fixed:
            raise ConfigError(f"--over {text!r}: {key} is given already. Name it once.")
        found[key] = list(parse_pairs([f"{key}=[{values}]"], "--over ")[key])
    return found


def _table(found: Sequence[Point]) -> Table:
    """A line for each setting and budget."""
    from rich.table import Table

    from kv_gym.bench.tables import entry_of, percent

    names = list(found[0].options)
    heads = (*names, "budget", "accuracy, % [95% interval]", "loss ratio [95% interval]")
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for point in sorted(found, key=lambda point: point.budget):
        accuracy = "" if point.accuracy is None else percent(point.accuracy)
        values = (str(point.options[name]) for name in names)
        table.add_row(*values, str(point.budget), accuracy, entry_of(point.loss_ratio).text)
    return table
