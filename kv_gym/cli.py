"""`kv-gym`: run the benchmark, sum its rows up, list agents and environments.

torch is loaded when something is run, not for `--help`.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from kv_gym import __version__
from kv_gym.errors import ConfigError, KVGymError
from kv_gym.leaderboard.board_cli import leaderboard_app
from kv_gym.leaderboard.cli import submit_app
from kv_gym.recording_cli import record, replay
from kv_gym.watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from kv_gym.agents import AgentLike
    from kv_gym.benchmark import Bench, BenchResult
    from kv_gym.report import Report

ROWS_FILE, REPORT_FILE, PLOT_FILE = "rows.jsonl", "report.json", "accuracy.png"
ALL_AGENTS = "all"
TRAINERS = "kv_gym.trainers"  # entry points of typer functions
PIPE_COLUMNS = 200  # width of tables that are not written to a terminal
OWN_OPTIONS = {"budget": "--budget", "mode": "--mode", "n_problems": "--problems", "split": "--split"}

Result = TypeVar("Result")

app = typer.Typer(
    help="Agents decide which KV-cache slots of a frozen LLM are evicted; this measures how well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Trainers(TyperGroup):
    """The trainings that installed packages offer; each is loaded when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the entry points."""
        return sorted(entry.name for entry in entry_points(group=TRAINERS))

    def get_command(self, ctx: Any, name: str) -> Any:
        """Load one."""
        found = {entry.name: entry for entry in entry_points(group=TRAINERS)}
        if name not in found:
            return None
        trainer = typer.Typer(add_completion=False)
        trainer.command(name)(found[name].load())
        return typer.main.get_command(trainer)


models_app = typer.Typer(help="Frozen LLMs: list what was measured, or check one of your own.")
app.add_typer(models_app, name="models")
app.add_typer(submit_app, name="submit")
app.add_typer(typer.Typer(cls=Trainers, help="Train an agent (`kv-gym train NAME --help`)."), name="train")
app.add_typer(leaderboard_app, name="leaderboard")
app.command()(watch)
app.command()(record)
app.command()(replay)


class ModeChoice(StrEnum):
    """What `--mode` takes."""

    generate = "generate"
    replay = "replay"
    both = "both"


class SplitChoice(StrEnum):
    """What `--split` takes."""

    train = "train"
    validation = "validation"
    test = "test"


def main(arguments: list[str] | None = None) -> None:
    """Run the program; mistakes of the user end it with one message and exit code 2."""
    try:
        app(arguments)
    except KVGymError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def bench(
    env_id: Annotated[
        str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them. Not with --suite.")
    ] = "",
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="Agent by name, or path/to/mine.py:MyAgent, with options such as rkv,lam=0.5; repeat for more. "
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
    mode: Annotated[
        ModeChoice | None,
        typer.Option(
            help="generate measures accuracy, replay measures losses and missed attention. Default: the env's page."
        ),
    ] = None,
    width: Annotated[int, typer.Option(help="Episodes side by side.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder of rows, report and plot. Default: runs/bench/ENV_ID.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON (it is always saved to report.json).")
    ] = False,
    plot: Annotated[bool, typer.Option(help="Save accuracy against budget to accuracy.png.")] = True,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the environment; repeat for more."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Several environments at once with cross tables: `all`, or a YAML file of your own. Of the other "
            "options only --agent, --budget, --problems, --width and --out go with it."
        ),
    ] = None,
) -> None:
    """Measure agents: accuracy and loss spike per agent and budget, with 95% intervals.

    Rows are written as episodes end. After a kill the same command goes on where it stopped. Exits with 1 if an agent
    raised in any episode.
    """
    if bool(suite) == bool(env_id):
        raise ConfigError("name an environment (`kv-gym envs` lists them) or a --suite, one of the two.")
    if suite:
        _bench_suite(suite, agent, budget, problems, width, out or Path("runs") / "suites" / Path(suite).stem)
        return
    options = parse_settings(settings or [])
    options["split"] = split.value
    folder = out or Path("runs") / "bench" / env_id
    plan = _plan(env_id, agent or [], budget or [], problems, seeds, mode, width, options)
    result = _run(plan, folder / ROWS_FILE)
    if not result.rows:
        raise ConfigError(
            f"none of the {plan.problems} problems can be played at budget {', '.join(map(str, plan.budgets))}: their "
            "texts are shorter than budget + 3 * evict_every tokens. Use a smaller budget."
        )
    from kv_gym.report import build_report

    report = build_report(result.rows, result.runs)
    save_json(report, folder / REPORT_FILE)
    show(report, as_json, folder / PLOT_FILE if plot else None)
    _say(f"{result.n_new} new rows, {len(result.rows) - result.n_new} known: {folder / ROWS_FILE}")
    if any(cell.n_failed for cell in report.cells):
        raise typer.Exit(1)


@app.command()
def report(
    rows: Annotated[Path, typer.Argument(help="A rows.jsonl(.gz) that `kv-gym bench` wrote, or its folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print accuracy, loss ratio and cost as Markdown tables.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Save accuracy against budget to this PNG.")] = None,
) -> None:
    """Sum rows up: those with the env, model and settings of the last row, with the newest version of each agent."""
    from kv_gym.report import build_report, newest_rows
    from kv_gym.rows import RowFileError, read_rows

    path = rows / ROWS_FILE if rows.is_dir() else rows
    if rows.is_dir() and not path.exists():
        path = path.with_name(f"{ROWS_FILE}.gz")
    found = read_rows(path)
    chosen = newest_rows(found)
    if not chosen:
        raise RowFileError(f"{path} holds no episodes yet. Run `kv-gym bench` first.")
    summed = build_report(chosen, found.runs.values(), len(found.episodes) - len(chosen))
    if as_markdown:
        from kv_gym.display import markdown

        print(markdown(summed))
        return
    show(summed, as_json, plot)


@app.command()
def agents() -> None:
    """List the agents that are installed."""
    from rich.table import Table
    from rich.text import Text

    from kv_gym.agents import GROUP, agent_entries

    table = Table("name", "class", "needs", "hindsight", "what it does", box=None, pad_edge=False, header_style="bold")
    for name, entry in agent_entries().items():
        try:
            table.add_row(*(Text(cell) for cell in (name, entry.value, *_describe(entry.load()))))
        except Exception as error:
            table.add_row(Text(name), Text(entry.value), "", "", Text(f"{type(error).__name__}: {error}", style="red"))
    if not table.row_count:
        raise ConfigError(f"no package offers agents (entry-point group {GROUP!r}). Install one: `pip install -e .`.")
    _console().print(table)
    _say("Your own: kv-gym bench ENV_ID --agent path/to/mine.py:MyAgent")


@app.command()
def envs(
    described: Annotated[
        str | None, typer.Option("--page", metavar="ID", help="Print the page of this environment instead.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--pages", metavar="FOLDER", help="Write the pages of all environments instead.")
    ] = None,
) -> None:
    """List the environments, or describe them."""
    if described or folder:
        from kv_gym.pages import show_pages

        show_pages(described, folder)
        return
    from rich.table import Table

    from kv_gym.config import env_page
    from kv_gym.registry import env_ids

    table = Table("id", "title", "problems", "model", "bench budgets", box=None, pad_edge=False, header_style="bold")
    for env_id in env_ids():
        page = env_page(env_id)
        settings, budgets = page.settings, ", ".join(map(str, page.bench.budgets))
        table.add_row(env_id, page.title, f"{settings.n_problems} {settings.problems}", settings.model, budgets)
    _console().print(table)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the models that were measured with the full cache, and the families that are tested."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from kv_gym.llm.known import known_models

    known = known_models()
    columns = ("model", "architecture", "size", "layers", "query/KV heads", "full cache: accuracy (problems, tokens)")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for model in known.models:
        figures = [f"{m.env_id} {m.accuracy:g}% ({m.problems}, {m.tokens})" for m in model.measured]
        name = f"{model.id} ({model.file})" if model.file else model.id
        heads = f"{model.q_heads}/{model.kv_heads} x {model.head_dim}"
        table.add_row(name, model.architecture, model.size, str(model.layers), heads, "; ".join(figures))
    _console().print(table)
    _say(f"Families tested with random weights: {', '.join(known.families)}. Another one: kv-gym models check ID")


@models_app.command()
def check(
    model: Annotated[str, typer.Argument(help="`tiny`, a hub id, a local folder or a .gguf file.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
) -> None:
    """Prove on a model that evicting slots does what it says, and say what is unsupported. Exits with 1 if it does not.

    The model is loaded in float32, because rounding in shorter types hides mistakes.
    """
    from rich.table import Table

    from kv_gym.llm.check import ALLOWED, check_truths, missing_parts
    from kv_gym.llm.loading import load_llm

    llm = load_llm(model, revision, "float32", device)
    shape, truths = llm.shape, check_truths(llm)
    table = Table("truth", "largest difference", "allowed", "", box=None, pad_edge=False, header_style="bold")
    for truth in truths:
        table.add_row(truth.claim, f"{truth.gap:.1e}", f"{ALLOWED:.0e}", "holds" if truth.held else "DOES NOT HOLD")
    console = _console()
    console.print(table)
    template = "its own" if llm.tokenizer.chat_template else "none, prompts are read as they are"
    console.print(
        f"{type(llm.model).__name__}: {shape.n_layers} layers, {shape.n_q_heads} query and {shape.n_kv_heads} KV heads "
        f"of {shape.head_dim}; a slot in all of them is {shape.slot_bytes:,} bytes. Chat template: {template}."
    )
    for missing in missing_parts(llm):
        console.print(f"Not supported, {missing}")
    if not all(truth.held for truth in truths):
        raise typer.Exit(1)


def parse_pairs(pairs: list[str], option: str = "--set ") -> dict[str, Any]:
    """Read the `KEY=VALUE` pairs of an option; values are YAML.

    Raises:
        ConfigError: No `=`, or no YAML.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option}{pair!r} has no value. Use {option}KEY=VALUE.")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{option}{pair!r}: the value is not YAML. Use a number, true, null or a name."
            ) from error
    return found


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Read settings of an environment.

    Raises:
        ConfigError: As `parse_pairs`; or a key that has an option of its own.
    """
    found = parse_pairs(pairs)
    for key, value in found.items():
        if key in OWN_OPTIONS:
            pair = f"{key}={value}"
            raise ConfigError(f"--set {pair!r}: {key} has an option of its own. Use {OWN_OPTIONS[key]} {value}.")
        if key == "shadow":
            raise ConfigError("--set shadow: replay runs with a shadow and generate without. Use --mode.")
    return found


def _plan(
    env_id: str, names: list[str], budgets: list[int], problems: int | None, seeds: int, mode: ModeChoice | None,
    width: int, options: dict[str, Any],
) -> Bench:  # fmt: skip
    from kv_gym.config import env_page, make_config

    page = env_page(env_id)
    for budget in budgets or page.bench.budgets:  # mistakes show before torch is loaded
        make_config(env_id, **options, budget=budget)
    from kv_gym.agents import agent_entries
    from kv_gym.benchmark import MODES, Bench

    modes = [known for known in MODES if mode in (ModeChoice.both, known)]  # none: those of the page
    if names == [ALL_AGENTS]:
        names = list(agent_entries())
    loaded = [build_agent(text) for text in names or page.bench.agents]
    return Bench(env_id, loaded, budgets, problems, seeds, modes, width, options)


def build_agent(text: str) -> AgentLike:
    """Build an agent from what `--agent` takes: NAME[,KEY=VALUE...].

    Raises:
        KVGymError: As `load_agent` and `parse_pairs`.
    """
    from kv_gym.agents import load_agent

    name, *pairs = text.split(",")
    return load_agent(name, **parse_pairs(pairs, "--agent NAME,"))


def _run(plan: Bench, path: Path) -> BenchResult:
    from kv_gym.benchmark import run_bench

    return _watched(lambda progress: run_bench(plan, path, progress), path)


def _watched(run: Callable[[BarProgress], Result], path: Path, made: str = "rows") -> Result:
    """Run with a bar; a stopped run says where what it `made` is."""
    with BarProgress() as progress:
        try:
            return run(progress)
        except KeyboardInterrupt:
            progress.stop()
            _say(f"Stopped. The {made} so far are in {path}; the same command goes on from there.")
            raise typer.Exit(130) from None


def _bench_suite(
    name: str, agents: list[str] | None, budgets: list[int] | None, problems: int | None, width: int, folder: Path
) -> None:
    from kv_gym.suite import load_suite, run_suite
    from kv_gym.suite_page import page, save_suite_plot

    chosen = {"agents": agents, "budgets": budgets, "problems": problems}
    suite = load_suite(name).model_copy(update={key: value for key, value in chosen.items() if value})
    parts = _watched(lambda progress: run_suite(suite, build_agent, folder, width, progress), folder)
    save_suite_plot(parts, folder / PLOT_FILE)
    for part, found in parts.items():
        save_json(found.report, folder / part / REPORT_FILE)
    text = page(suite.title, parts, PLOT_FILE)
    (folder / "README.md").write_text(text)
    from rich.markdown import Markdown

    _console().print(Markdown(text))
    _say(f"page: {folder / 'README.md'}")
    if any(cell.n_failed for found in parts.values() for cell in found.report.cells):
        raise typer.Exit(1)


class BarProgress:
    """Progress as a bar on stderr: what is under way, how many are done, the time left."""

    def __init__(self) -> None:
        from kv_gym.display import progress_bar

        self._bar = progress_bar("{task.fields[stage]}")
        self._task: Any = None

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def begin(self, stage: str, total: int) -> None:
        """Start a stage; nothing is shown for one without items."""
        self._task = self._bar.add_task("", total=total, stage=stage, visible=total > 0)

    def describe(self, text: str) -> None:
        """Say what is under way."""
        self._bar.update(self._task, description=text)

    def advance(self, n: int) -> None:
        """Count `n` more items."""
        self._bar.advance(self._task, n)


def save_json(report: Report, path: Path) -> None:
    """Write a report in one piece."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    temporary.replace(path)


def show(report: Report, as_json: bool, plot: Path | None) -> None:
    """Print a report, as tables or as JSON, and save its plot."""
    from kv_gym.display import save_plot, tables

    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        _console().print(tables(report))
    if plot is not None:
        save_plot(report, plot)
        _say(f"plot: {plot}")


def _describe(agent: Any) -> tuple[str, str, str]:
    """What an agent's class says about itself: needs, hindsight, first line and what it was trained on."""
    lines = (agent.__doc__ or "").strip().splitlines()
    needs = "statistics" if agent.needs_statistics else ""
    about = f" Trained: {agent.about()}." if hasattr(agent, "about") else ""
    return needs, "yes" if agent.uses_hindsight else "", (lines[0] if lines else "") + about


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def _say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
