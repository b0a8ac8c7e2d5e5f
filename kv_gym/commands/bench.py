"""`kv-gym bench`: measure agents."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kv_gym.commands.console import console, say, watched
from kv_gym.commands.options import (
    ChunkSeconds,
    RayAddress,
    Settings,
    WorkerCount,
    build_agent,
    parse_settings,
    parse_shard,
    parse_width,
    parse_workers,
)
from kv_gym.commands.report import PLOT_FILE, REPORT_FILE, save_json, show
from kv_gym.errors import ConfigError
from kv_gym.files import ROWS_FILE

if TYPE_CHECKING:
    from kv_gym.bench.benchmark import BenchResult
    from kv_gym.bench.plan import Bench, Mode
    from kv_gym.bench.workers import Workers

ALL_AGENTS = "all"


class ModeChoice(StrEnum):
    """What `--mode` takes."""

    generate = "generate"
    replay = "replay"
    both = "both"


def modes_of(choice: ModeChoice | None) -> list[Mode]:
    """What `--mode` means; nothing is what the page says."""
    from kv_gym.bench.plan import MODES

    return [known for known in MODES if choice in (ModeChoice.both, known)]


class SplitChoice(StrEnum):
    """What `--split` takes."""

    train = "train"
    validation = "validation"
    test = "test"


def bench(
    env_id: Annotated[
        str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them. Not with --suite.")
    ] = "",
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="Agent by name, or path/to/mine.py:MyAgent, with options such as rkv,lam=0.5; repeat for more. "
            "'rkv,lam=0.5 as mine' is called mine in rows, tables and plots. "
            "`all`: every installed one. Default: the env's page.",
        ),
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(help="Slots that stay per layer and KV head; repeat for more. Default: those of the env's page."),
    ] = None,
    problems: Annotated[int | None, typer.Option(help="First problems of the set. Default: the env's page.")] = None,
    split: Annotated[SplitChoice, typer.Option(help="Split of the problems.")] = SplitChoice.test,
    seeds: Annotated[int, typer.Option(help="Episodes per problem, with seeds 0, 1, ...")] = 1,
    problem_seeds: Annotated[
        int,
        typer.Option(
            help="Made problems only: the first --problems of so many problem seeds, 0, 1, ... A number that rests on "
            "several is not that of one lucky set."
        ),
    ] = 1,
    mode: Annotated[
        ModeChoice | None,
        typer.Option(help="generate measures accuracy, replay measures losses. Default: the env's page."),
    ] = None,
    width: Annotated[
        str,
        typer.Option(
            help="Episodes side by side. `auto`: as many as fit into the memory that is free, on a CPU up to 64 "
            "(`kv-gym models plan`)."
        ),
    ] = "auto",
    agent_seconds: Annotated[
        float | None, typer.Option(help="An agent whose decision takes longer fails. Default: no limit.")
    ] = None,
    texts: Annotated[
        bool,
        typer.Option(
            "--texts",
            help="Keep every text in texts.jsonl.gz beside the rows, and the loss of every token that is replayed.",
        ),
    ] = False,
    missed_attention: Annotated[
        bool,
        typer.Option(
            "--missed-attention",
            help="In replay, measure the attention that evicted slots would have got: a full cache reads along, which "
            "takes about three times as long.",
        ),
    ] = False,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Play only share I of N, from 1 on: for N jobs of a cluster, each with an --out of its "
            "own; `kv-gym report` takes all their folders.",
        ),
    ] = "1/1",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    chunk_seconds: ChunkSeconds = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of rows, report and plot. Default: runs/bench/ENV_ID.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON (it is always saved to report.json).")
    ] = False,
    plot: Annotated[bool, typer.Option(help="Save accuracy against budget to accuracy.png.")] = True,
    settings: Settings = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Several environments at once with cross tables: `all`, or a YAML file of your own. Of the other "
            "options only --agent, --budget, --problems, --width, those of workers and --out go with it."
        ),
    ] = None,
) -> None:
    """Measure agents: accuracy and loss spike per agent and budget, with 95% intervals.

    Rows are written as episodes end. After a kill the same command goes on where it stopped. Exits with 1 if an agent
    raised in any episode.
    """
    if bool(suite) == bool(env_id):
        raise ConfigError("name an environment (`kv-gym envs` lists them) or a --suite, one of the two.")
    crew = parse_workers(workers, ray, chunk_seconds)
    if suite:
        folder = out or Path("runs") / "suites" / Path(suite).stem
        _bench_suite(suite, agent, budget, problems, parse_width(width), folder, crew)
        return
    options = parse_settings(settings or [])
    options["split"] = split.value
    folder = out or Path("runs") / "bench" / env_id
    plan = _plan(
        env_id, agent or [], budget or [], problems, seeds, problem_seeds, mode, parse_width(width), options,
        agent_seconds, texts, missed_attention, parse_shard(shard),
    )  # fmt: skip
    _bench_one(plan, folder, as_json, plot, crew)


def _bench_one(plan: Bench, folder: Path, as_json: bool, plot: bool, crew: Workers | None) -> None:
    """Run a benchmark into a folder and show its report."""
    from kv_gym.bench.report import build_report

    result = _run(plan, folder / ROWS_FILE, crew)
    if not result.rows:
        raise ConfigError(
            f"none of the {plan.problems} problems can be played at budget {', '.join(map(str, plan.budgets))}: their "
            "texts are shorter than budget + 3 * evict_every tokens. Use a smaller budget."
        )
    summed = build_report(result.rows, result.runs)
    save_json(summed, folder / REPORT_FILE)
    show(summed, as_json, folder / PLOT_FILE if plot else None)
    say(f"{result.n_new} new rows, {len(result.rows) - result.n_new} known: {folder / ROWS_FILE}")
    if any(cell.n_failed for cell in summed.cells):
        raise typer.Exit(1)


def _plan(
    env_id: str, names: list[str], budgets: list[int], problems: int | None, seeds: int, problem_seeds: int,
    mode: ModeChoice | None, width: int | Literal["auto"], options: dict[str, Any], agent_seconds: float | None,
    texts: bool, missed_attention: bool, shard: tuple[int, int],
) -> Bench:  # fmt: skip
    from kv_gym.config import env_page, make_config

    page = env_page(env_id)
    for budget in budgets or page.bench.budgets:  # mistakes show before torch is loaded
        make_config(env_id, **options, budget=budget)
    from kv_gym.agents import agent_entries
    from kv_gym.bench.plan import Bench

    if names == [ALL_AGENTS]:
        names = list(agent_entries())
    loaded = [build_agent(text) for text in names or page.bench.agents]
    return Bench(
        env_id, loaded, budgets, problems, seeds, modes_of(mode), width, options, problem_seeds, agent_seconds, texts,
        missed_attention, shard,
    )  # fmt: skip


def _run(plan: Bench, path: Path, crew: Workers | None) -> BenchResult:
    from kv_gym.bench.benchmark import run_bench

    return watched(lambda progress: run_bench(plan, path, progress, crew), path)


def _bench_suite(
    name: str, agents: list[str] | None, budgets: list[int] | None, problems: int | None, width: int | Literal["auto"],
    folder: Path, crew: Workers | None,
) -> None:  # fmt: skip
    from kv_gym.bench.plots import save_suite_plot
    from kv_gym.bench.suite import load_suite, run_suite
    from kv_gym.bench.suite_page import page

    chosen = {"agents": agents, "budgets": budgets, "problems": problems}
    suite = load_suite(name).model_copy(update={key: value for key, value in chosen.items() if value})
    parts = watched(lambda progress: run_suite(suite, build_agent, folder, width, progress, crew), folder)
    save_suite_plot(parts, folder / PLOT_FILE)
    for part, found in parts.items():
        save_json(found.report, folder / part / REPORT_FILE)
    text = page(suite.title, parts, PLOT_FILE)
    (folder / "README.md").write_text(text)
    from rich.markdown import Markdown

    console().print(Markdown(text))
    say(f"page: {folder / 'README.md'}")
    if any(cell.n_failed for found in parts.values() for cell in found.report.cells):
        raise typer.Exit(1)
