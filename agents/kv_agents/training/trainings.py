"""The trainings that ``kv-gym train`` offers, named by entry points of the group `kv_gym.trainers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_agents.training.course import Course, reward_options
from kv_agents.training.distill import Distiller, DistillRecipe
from kv_agents.training.grpo import GRPORecipe, Tuner
from kv_agents.training.ppo import PPORecipe, PPOTrainer
from kv_gym.bench.progress import Progress
from kv_gym.bench.tracking import TrackerName
from kv_gym.bench.workers import Workers
from kv_gym.config import make_config


@dataclass(frozen=True)
class Training:
    """One way of training a scorer (`kv_gym.commands.train.Training`).

    Attributes:
        title: What it does, a line.
        recipe: Class of its knobs, a dataclass with defaults.
        out: Where the checkpoint goes.
        trainer: Class of what trains: `Course`, recipe and work folder in; `resume`, `run` and `finish`.
        by_workers: Whether it also takes `kv_gym.bench.workers.Workers`, who play for it.
        tracked: Whether it tells its numbers to a tracker.
    """

    title: str
    recipe: type
    out: Path
    trainer: Callable[..., Any]
    by_workers: bool = False
    tracked: bool = True

    def begin(
        self, recipe: Any, env_id: str, options: dict[str, Any], work: Path, progress: Progress,
        workers: Workers | None = None, track: TrackerName | None = None,
    ) -> Any:  # fmt: skip
        """Return the trainer, with the problems of an environment and their references."""
        if hasattr(recipe, "weights"):  # mistakes show before references are made
            reward = reward_options(recipe.weights, recipe.mode)
            make_config(env_id, **options | reward | {"budget": recipe.budgets[0]})
        course = Course(
            env_id, options, recipe.families, recipe.n_train, recipe.n_validation, progress, recipe.budgets, track
        )  # fmt: skip
        return self.trainer(course, recipe, work, *([] if workers is None else [workers]))


distill = Training(
    "Distil Golden Eviction into a scorer.", DistillRecipe, Path("runs/foresight.safetensors"), Distiller
)
grpo = Training(
    "Tune a scorer on the environment's reward.",
    GRPORecipe,
    Path("runs/foresight-rl.safetensors"),
    Tuner,
    by_workers=True,
)
ppo = Training("Train a policy with stable-baselines3.", PPORecipe, Path("runs/ppo.safetensors"), PPOTrainer)
