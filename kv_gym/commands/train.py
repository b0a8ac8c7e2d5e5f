"""`kv-gym train NAME`: the trainings that installed packages offer."""

from __future__ import annotations

import inspect
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer
from typer.core import TyperGroup

from kv_gym.commands.console import say, watched
from kv_gym.commands.options import ChunkSeconds, RayAddress, WorkerCount, parse_pairs, parse_workers
from kv_gym.errors import ConfigError, unknown_name
from kv_gym.registry import plugins

if TYPE_CHECKING:
    from kv_gym.bench.progress import Progress

GROUP = "kv_gym.trainers"


class TrackerChoice(StrEnum):
    """What `--track` takes."""

    wandb = "wandb"
    trackio = "trackio"


Recipe = TypeVar("Recipe")


class Trainer(Protocol):
    """One training under way."""

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        ...

    def run(self) -> None:
        """Train to the end."""
        ...

    def finish(self, path: Path) -> None:
        """Write the checkpoint."""
        ...


class Training(Protocol):
    """What an entry point of the group `kv_gym.trainers` names."""

    @property
    def title(self) -> str:
        """What it does, a line."""
        ...

    @property
    def recipe(self) -> type:
        """Class of its knobs: a dataclass with defaults, whose docstring explains them."""
        ...

    @property
    def out(self) -> Path:
        """Where the checkpoint goes by default."""
        ...

    def begin(self, recipe: Any, env_id: str, options: dict[str, Any], work: Path, progress: Progress) -> Trainer:
        """Return what trains in an environment with `options` on top of its page.

        One with an attribute `by_workers` that is true also takes `workers` (`kv_gym.bench.workers.Workers`); one with
        `tracked` takes `track`, a name of `kv_gym.bench.tracking`.
        """
        ...


class Trainers(TyperGroup):
    """A command for each training; each is loaded when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the entry points."""
        return list(plugins(GROUP, "training"))

    def get_command(self, ctx: Any, name: str) -> Any:
        """Load one."""
        entry = plugins(GROUP, "training").get(name)
        if entry is None:
            return None
        try:
            return train_command(name, entry.load())
        except Exception as error:  # whatever somebody else's package does; the other trainings still work
            return broken_command(name, f"{entry.value} cannot be loaded: {type(error).__name__}: {error}")


def broken_command(name: str, reason: str) -> Any:
    """A command that says why it is none."""

    def broken() -> None:
        raise ConfigError(f"training {name!r}: {reason}. Mend or uninstall the package that offers it.")

    app = typer.Typer(add_completion=False)
    app.command(name, help=f"(broken) {reason}")(broken)
    return typer.main.get_command(app)


def train_command(name: str, training: Training) -> Any:
    """Make the command of one training; its help lists the knobs."""
    app = typer.Typer(add_completion=False)

    from kv_gym.bench.tracking import library_of
    from kv_gym.rewards import REWARD_TERMS

    def train(
        out: Annotated[
            Path, typer.Option(help="The finished checkpoint, .safetensors; its JSON goes beside it.")
        ] = training.out,
        work: Annotated[
            Path | None,
            typer.Option(help="Folder of state and log; a run resumes from it. Default: runs/train/NAME of --out."),
        ] = None,
        env: Annotated[str, typer.Option(help="Environment to learn in.")] = "KVEvict-AIME-v0",
        settings: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="A knob of the recipe, as YAML; repeat for more."),
        ] = None,
        options: Annotated[
            list[str] | None,
            typer.Option(
                "--env-set", metavar="KEY=VALUE", help="A setting of the environment, such as model=...; repeat."
            ),
        ] = None,
        plot: Annotated[
            Path | None, typer.Option(help="Draw the learning curves at the end: .png, .svg or .pdf.")
        ] = None,
        track: Annotated[
            TrackerChoice | None, typer.Option(help="Tell the numbers to this tracker too, which must be installed.")
        ] = None,
        workers: WorkerCount = None,
        ray: RayAddress = None,
        chunk_seconds: ChunkSeconds = None,
    ) -> None:
        if plot is not None:
            from kv_gym.bench.curves import check_picture, read_curve, save_curves

            check_picture(plot)
        recipe: Any = build_recipe(training.recipe, settings)
        env_options = parse_pairs(options or [], "--env-set ", env=True)
        weights = {term.weight for term in REWARD_TERMS} if hasattr(recipe, "weights") else set()
        for name in weights & env_options.keys():
            raise ConfigError(f"--env-set {name}: the training weighs its reward itself. Use --set {name}=...")
        players = parse_workers(workers, ray, chunk_seconds)
        if players is not None and not getattr(training, "by_workers", False):
            raise ConfigError(f"--workers: {name} plays in this process alone. Leave it out.")
        more: dict[str, Any] = {} if players is None else {"workers": players}
        if track is not None:
            if not getattr(training, "tracked", False):
                raise ConfigError(f"--track: {name} tells nobody its numbers. Leave it out, and read its log.")
            library_of(track.value)  # a missing package shows before references are made
            more["track"] = track.value
        folder = work or Path("runs/train") / out.stem

        def run(progress: Progress) -> None:
            trainer = training.begin(recipe, env, env_options, folder, progress, **more)
            trainer.resume()
            trainer.run()
            trainer.finish(out)

        watched(run, folder, "state and log")
        say(f"checkpoint: {out}")
        if plot is not None:
            save_curves([read_curve(folder)], plot)
            say(f"plot: {plot}")

    app.command(name, help=f"{training.title}\n\n\b\nKnobs for --set:\n{knobs(training.recipe)}")(train)
    return typer.main.get_command(app)


def float_of(name: str, value: Any) -> float:
    """A weight of the reward that was given by its own name.

    Raises:
        ConfigError: It is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"--set {name}={value!r} is not allowed: a weight is a number.")
    return float(value)


def knobs(recipe: type) -> str:
    """What a recipe's docstring says of its knobs, with their defaults."""
    told = (inspect.getdoc(recipe) or "").partition("Attributes:\n")[2]
    defaults = ", ".join(f"{name}={value!r}" for name, value in vars(recipe()).items())
    return f"{told}\n\nDefaults: {defaults}"


def build_recipe(kind: type[Recipe], settings: list[str] | None) -> Recipe:
    """Make a recipe from `KEY=VALUE` pairs.

    Raises:
        UnknownNameError: A key is no knob of this recipe.
        ConfigError: A value has the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    from kv_gym.rewards import REWARD_TERMS

    values = parse_pairs(settings or [])
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    weights = [term.weight for term in REWARD_TERMS] if "weights" in known else []
    own = {name: float_of(name, values.pop(name)) for name in weights if name in values}
    for name in values:
        if name not in known:
            raise unknown_name(f"knob of {kind.__name__}", name, [*known, *weights])
    if own and "weights" in values:
        raise ConfigError(f"--set weights and --set {next(iter(own))}: give all weights in one way or the other.")
    if own:  # what is not named stays as it is
        values["weights"] = kind().weights | own  # type: ignore[attr-defined]
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--set {first['loc'][0]}={first['input']!r} is not allowed: {first['msg']}.") from error
