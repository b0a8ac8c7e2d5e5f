"""The trainings on the command line: ``kv-gym train distill`` and ``kv-gym train grpo``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from kv_agents.training.course import Course
from kv_agents.training.distill import Distiller, DistillRecipe
from kv_agents.training.grpo import GRPORecipe, Tuner
from kv_gym.commands.options import parse_pairs
from kv_gym.errors import ConfigError, unknown_name

Recipe = TypeVar("Recipe")
Out = Annotated[Path, typer.Option(help="The finished checkpoint, .safetensors; its JSON goes beside it.")]
Work = Annotated[
    Path | None, typer.Option(help="Folder of state and log; a run resumes from it. Default: runs/train/NAME of --out.")
]
Env = Annotated[str, typer.Option(help="Environment to learn in.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe, as YAML; repeat for more."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--env-set", metavar="KEY=VALUE", help="A setting of the environment, such as model=...; repeat."),
]


def build_recipe(kind: type[Recipe], settings: list[str] | None) -> Recipe:
    """Make a recipe from `KEY=VALUE` pairs.

    Raises:
        UnknownNameError: A key is no knob of this recipe.
        ConfigError: A value has the wrong type.
    """
    values = parse_pairs(settings or [])
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown_name(f"knob of {kind.__name__}", name, known)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--set {first['loc'][0]}={first['input']!r} is not allowed: {first['msg']}.") from error


def distill(
    out: Out = Path("runs/foresight.safetensors"),
    work: Work = None,
    env: Env = "KVEvict-AIME-v0",
    settings: Settings = None,
    options: Options = None,
) -> None:
    """Distil Golden Eviction into a scorer; knobs for --set are the fields of DistillRecipe."""
    recipe = build_recipe(DistillRecipe, settings)
    course = _course(env, recipe, options)
    _train(Distiller(course, recipe, _work(work, out)), out)


def grpo(
    out: Out = Path("runs/foresight-rl.safetensors"),
    work: Work = None,
    env: Env = "KVEvict-AIME-v0",
    settings: Settings = None,
    options: Options = None,
) -> None:
    """Tune a scorer on the environment's reward; knobs for --set are the fields of GRPORecipe."""
    recipe = build_recipe(GRPORecipe, settings)
    course = _course(env, recipe, options)
    _train(Tuner(course, recipe, _work(work, out)), out)


def ppo(
    out: Out = Path("runs/ppo.safetensors"),
    work: Work = None,
    env: Env = "KVEvict-AIME-v0",
    settings: Settings = None,
    options: Options = None,
) -> None:
    """Train a policy with stable-baselines3; knobs for --set are the fields of PPORecipe."""
    from kv_agents.training.ppo import PPORecipe, PPOTrainer

    recipe = build_recipe(PPORecipe, settings)
    course = _course(env, recipe, options)
    _train(PPOTrainer(course, recipe, _work(work, out)), out)


def _course(env: str, recipe: Any, options: list[str] | None) -> Course:
    return Course(env, parse_pairs(options or []), recipe.families, recipe.n_train, recipe.n_validation)


def _work(work: Path | None, out: Path) -> Path:
    return work or Path("runs/train") / out.stem


def _train(trainer: Any, out: Path) -> None:
    trainer.resume()
    try:
        trainer.run()
    except KeyboardInterrupt:
        typer.echo(f"Stopped. The state is in {trainer.work}; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    trainer.finish(out)
    typer.echo(f"checkpoint: {out}", err=True)
