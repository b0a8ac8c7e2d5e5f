"""PPO and MaskablePPO by stable-baselines3: ``kv-gym train ppo``.

The environment is played as any RL researcher would play it, through its observations. The trained actor is exported as
a checkpoint, so that it is an agent like any other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, configure
from stable_baselines3.common.vec_env import VecMonitor

from kv_agents.learned import checkpoints
from kv_agents.learned.scorer import Scorer
from kv_agents.training.course import Course, loss_alone, other_mode, played, reward_options
from kv_agents.training.sb3 import SlotPolicy, SlotVecEnv
from kv_gym.bench.tracking import Tracker
from kv_gym.config import make_config
from kv_gym.envs.vector_env import KVEvictVectorEnv


@dataclass
class PPORecipe:
    """Every knob of the training.

    Attributes:
        action: `scores` (Gaussian keep scores, PPO) or `slot` (one slot a token, MaskablePPO, needs sb3-contrib).
        mode: `replay` (dense losses) or `generate` (the answer counts).
        budgets: Slots; one value.
        granularity: What shares a decision, for `scores`.
        families: Must be empty: the environment draws from all.
        steps: Environment steps, all rows together.
        width: Episodes side by side.
        horizon: Steps of each row between two updates.
        batch: Minibatch, steps.
        epochs: Passes over what was collected.
        lr: Learning rate of Adam.
        gamma: Discount per step.
        gae_lambda: Of the advantage estimate.
        target_kl: An update stops when the policy has moved so far.
        noise: Standard deviation of the scores at the start.
        hidden: Width of the scorer.
        weights: Of the reward's terms, by the names of the settings, such as w_loss; what is not named weighs nothing.
            `--set w_loss=0.05` sets one and leaves the others.
        evaluate_every: Steps between two evaluations on validation problems.
        both_modes: Evaluate in the other mode too: answers beside losses (`kv_agents.training.course.other_mode`).
        n_train, n_validation: Problems.
        seed: Of weights, episodes and actions.
    """

    action: Literal["scores", "slot"] = "scores"
    mode: Literal["replay", "generate"] = "replay"
    budgets: tuple[int] = (96,)
    granularity: Literal["head", "layer", "token"] = "token"
    families: tuple[str, ...] = ()
    steps: int = 60_000
    width: int = 32
    horizon: int = 32
    batch: int = 256
    epochs: int = 4
    lr: float = 1e-3
    gamma: float = 0.9
    gae_lambda: float = 0.9
    target_kl: float = 0.05
    noise: float = 0.5
    hidden: int = 32
    weights: dict[str, float] = field(default_factory=loss_alone)
    evaluate_every: int = 10_000
    both_modes: bool = True
    n_train: int = 512
    n_validation: int = 48
    seed: int = 0


class PPOTrainer:
    """Trains one policy.

    Args:
        course: Problems.
        recipe: Knobs.
        work: Folder of state and logs (`progress.csv`, and TensorBoard's where it is installed).
    """

    def __init__(self, course: Course, recipe: PPORecipe, work: Path) -> None:
        self.course, self.recipe = course, recipe
        self.work = course.work(work, recipe)
        self.best: tuple[float, dict[str, torch.Tensor]] = (-np.inf, {})
        self.model = self._build()
        self._started = time.time()

    def _options(self) -> dict[str, Any]:
        recipe = self.recipe
        options = {
            **self.course.options, "mode": recipe.mode, "budget": recipe.budgets[0], "n_problems": recipe.n_train,
            **reward_options(recipe.weights, recipe.mode),
        }  # fmt: skip
        if recipe.action == "slot":
            return options | {"action": "slot", "evict_every": 1}
        return options | {"action": "scores", "granularity": recipe.granularity}

    def _build(self) -> Any:
        recipe = self.recipe
        env = SlotVecEnv(KVEvictVectorEnv(self.course.env_id, recipe.width, **self._options()))
        algorithm: Any = PPO
        policy: Any = SlotPolicy
        kwargs: dict[str, Any] = {"hidden": recipe.hidden, "noise": recipe.noise}
        if recipe.action == "slot":
            from sb3_contrib import MaskablePPO

            from kv_agents.training.maskable import SlotChoicePolicy

            algorithm, policy, kwargs = MaskablePPO, SlotChoicePolicy, {"hidden": recipe.hidden}
        model = algorithm(
            policy, VecMonitor(env), learning_rate=recipe.lr, n_steps=recipe.horizon, batch_size=recipe.batch,
            n_epochs=recipe.epochs, gamma=recipe.gamma, gae_lambda=recipe.gae_lambda, target_kl=recipe.target_kl,
            seed=recipe.seed, policy_kwargs=kwargs, device=str(self.course.llm.shape.device),
        )  # fmt: skip
        model.set_logger(configure(str(self.work.folder), ["csv", *_tensorboard()]))
        observation = env.reset()
        slots = torch.as_tensor(observation["slots"])  # type: ignore[call-overload]
        model.policy.scorer.standardise(slots.reshape(len(slots), 1, 1, -1, slots.shape[-1]))
        return model

    @property
    def scorer(self) -> Scorer:
        """The actor."""
        return self.model.policy.scorer

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        state = self.work.load()
        if state is None:
            return
        self.model.policy.load_state_dict(state["policy"])
        self.model.policy.optimizer.load_state_dict(state["optimizer"])
        self.model.num_timesteps = state["steps"]
        self.best = state["best_return"], state["best"]

    def save(self) -> None:
        """Write the state."""
        policy = self.model.policy
        self.work.save({
            "policy": policy.state_dict(), "optimizer": policy.optimizer.state_dict(),
            "steps": self.model.num_timesteps, "best_return": self.best[0], "best": self.best[1],
        })  # fmt: skip

    def run(self) -> None:
        """Train to the last step."""
        self.work.begin()
        if self.work.tracker is not None:
            self.model.logger.output_formats.append(_Told(self.work.tracker))
        left = self.recipe.steps - self.model.num_timesteps
        if not self.work.log:
            self.evaluate()
        if left > 0:
            self.course.progress.begin("steps", self.recipe.steps)
            self.course.progress.advance(self.model.num_timesteps)
            self.model.learn(left, callback=_Watch(self), reset_num_timesteps=False)
            self.evaluate()
        self.save()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean return without noise on the validation problems; keeps the best actor."""
        recipe, device = self.recipe, self.course.llm.shape.device
        settings = reward_options(recipe.weights, recipe.mode)
        settings |= {name: value for name, value in self._options().items() if name == "evict_every"}
        problems, scorer = self.course.validation, self.scorer.to(device)
        found = played(self.course, recipe.budgets[0], recipe.mode, settings, problems, scorer)
        returns, mean = found.returns, float(found.returns.mean())
        other = {}
        if recipe.both_modes:
            other = other_mode(self.course, recipe.budgets, recipe.mode, settings, problems, scorer)
        if mean > self.best[0]:
            self.best = mean, {name: tensor.clone() for name, tensor in self.scorer.state_dict().items()}
        self.work.add({
            "step": self.model.num_timesteps, "validation_return": round(mean, 5),
            "standard_error": round(float(returns.std() / len(returns) ** 0.5), 5), "correct": round(found.correct, 4),
            **other, "seconds": round(time.time() - self._started),
        })  # fmt: skip
        return mean

    def finish(self, path: Path) -> None:
        """Write the checkpoint of the best evaluation."""
        self.scorer.load_state_dict(self.best[1])
        recipe = self.recipe
        info = self.course.describe(
            self.scorer,
            recipe,
            self.work.log,
            method="ppo",
            evict_every=make_config(self.course.env_id, **self._options()).evict_every,
        )
        checkpoints.save(self.scorer, info, path)
        self.work.close()


class _Watch(BaseCallback):
    """Reports progress, evaluates, and saves after each update."""

    def __init__(self, trainer: PPOTrainer) -> None:
        super().__init__()
        self.trainer, self._told = trainer, trainer.model.num_timesteps
        self._next = trainer.recipe.evaluate_every * (trainer.model.num_timesteps // trainer.recipe.evaluate_every + 1)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._next += self.trainer.recipe.evaluate_every
            value = self.trainer.evaluate()
            self.trainer.course.progress.describe(f"validation return {value:.3f}")
        self.trainer.save()

    def _on_step(self) -> bool:
        self.trainer.course.progress.advance(self.num_timesteps - self._told)
        self._told = self.num_timesteps
        return True


class _Told(KVWriter):
    """Tells a tracker what stable-baselines3 logs."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """As the logger calls it after each update."""
        self.tracker.tell(key_values, step)

    def close(self) -> None:
        """The training ends the run."""


def _tensorboard() -> list[str]:
    from importlib.util import find_spec

    return ["tensorboard"] if find_spec("tensorboard") else []
