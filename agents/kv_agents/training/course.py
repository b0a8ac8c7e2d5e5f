"""What all trainings share: problems and references, resumable state, a log of numbers, the finished checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kv_agents.learned.checkpoints import CheckpointInfo
from kv_agents.learned.scorer import Scorer
from kv_agents.training.work import Work
from kv_gym.bench import provenance
from kv_gym.bench.progress import Progress, Silent
from kv_gym.bench.tracking import TrackerName
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.errors import ConfigError, unknown_name
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import list_problems
from kv_gym.rewards import REWARD_TERMS, needs_shadow


class Course:
    """The problems of one training: references of a split, per budget.

    Args:
        env_id: The environment.
        options: Settings on top of its page, such as `model`.
        families: Problem families to learn from; empty means all.
        n_train: First problems of the train split.
        n_validation: First problems of the validation split.
        progress: Told how far it is, here and by the trainer.
        budgets: That will be trained at; each must be one that the environment takes. Default: the page's.
        track: Tracker that is told the numbers of the training.

    Raises:
        KVGymError: A setting or a budget is none of the environment's.
    """

    def __init__(
        self, env_id: str, options: dict[str, Any], families: Sequence[str], n_train: int, n_validation: int,
        progress: Progress | None = None, budgets: Sequence[int] = (), track: TrackerName | None = None,
    ) -> None:  # fmt: skip
        self.env_id, self.options, self.families = env_id, options, tuple(families)
        self.progress: Progress = progress or Silent()
        self.track = track
        # mistakes show before anything is made
        own: list[dict[str, Any]] = [{"budget": budget} for budget in budgets] or [{}]
        config, *_ = [make_config(env_id, **options | budget) for budget in own]
        self.llm: FrozenLLM = load_llm(config.model, config.revision, config.dtype, config.device)
        self.train = self._references(config, "train", n_train, self.families)
        self.validation = self._references(config, "validation", n_validation, ())

    def _references(self, config: EnvConfig, split: str, n: int, families: Sequence[str]) -> list[Reference]:
        problems = list_problems(config.model_copy(update={"split": split, "n_problems": n}))
        chosen = [problem for problem in problems if not families or problem.family in families]
        if not chosen:
            known = sorted({problem.family for problem in problems})
            raise ConfigError(f"no problem of families {list(families)} among the first {n}. Known: {known}.")
        self.progress.begin("full-cache references", len(chosen))
        return ReferenceStore(self.llm, config).get(chosen, progress=self.progress.advance)

    def config(self, budget: int, mode: str, **settings: Any) -> EnvConfig:
        """Settings at one budget, without a shadow, and with `settings` on top."""
        known = {**self.options, "budget": budget, "mode": mode, "shadow": False}
        return make_config(self.env_id, **known | settings)

    def work(self, folder: Path, recipe: Any) -> Work:
        """Open the folder of a training in these problems; one of another recipe, environment or model is refused."""
        return Work(folder, {
            "recipe": type(recipe).__name__, **asdict(recipe), "env": self.env_id, "env settings": self.options,
            "model": self.llm.fingerprint,
        }, self.track)  # fmt: skip

    def describe(self, scorer: Scorer, recipe: Any, curve: list[dict[str, Any]], **facts: Any) -> CheckpointInfo:
        """What a checkpoint says of its training: where, how and on which model; `facts` are the method's own."""
        return CheckpointInfo(
            scorer=scorer.config,
            model=self.llm.name,
            model_fingerprint=self.llm.fingerprint,
            env_id=self.env_id,
            budgets=recipe.budgets,
            seed=recipe.seed,
            command=provenance.command(),
            recipe=asdict(recipe),
            curve=curve,
            **facts,
        )

    def playable(self, references: Sequence[Reference], config: EnvConfig) -> list[Reference]:
        """Those that can be played and whose reference is right: a wrong text teaches nothing worth keeping.

        Recorded traces are somebody else's text, whatever the LLM answers behind them.
        """
        found = [r for r in references if (r.correct == 1 or r.problem.trace) and is_playable(r, config)]
        if not found:
            raise ConfigError(f"no problem has a right reference that is long enough for budget={config.budget}.")
        return found


def check_counts(recipe: Any, but: Sequence[str]) -> None:
    """Refuse a recipe that does nothing: whole numbers are counts, from 1 on, and there is a budget.

    Args:
        recipe: A dataclass of knobs.
        but: Whole numbers that may be 0.

    Raises:
        ConfigError: Names the knob.
    """
    for name, value in vars(recipe).items():
        least = 0 if name in but else 1
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise ConfigError(f"{name}={value} is not allowed: use a whole number from {least} on.")
    if not recipe.budgets:
        raise ConfigError("budgets=() leaves nothing to train at. Name at least one number of slots.")


def loss_alone() -> dict[str, float]:
    """Weights of a dense reward: the loss spike, as environments weigh it."""
    return {"w_loss": 0.02}


def reward_options(weights: dict[str, float], mode: str) -> dict[str, Any]:
    """Settings of the environment that make its reward that of a training, with a shadow where one is needed.

    Raises:
        UnknownNameError: A weight is none of the reward's.
    """
    known = [term.weight for term in REWARD_TERMS]
    for name in weights:
        if name not in known:
            raise unknown_name("weight of the reward", name, known)
    by_term = {term.name: weights.get(term.weight, 0.0) for term in REWARD_TERMS}
    return {"shadow": needs_shadow(by_term, mode), **{t.weight: by_term[t.name] for t in REWARD_TERMS}}


@dataclass(frozen=True)
class Played:
    """What came of validation problems at one budget.

    Attributes:
        returns: Of each, [N].
        correct: Mean score of the answers.
        loss: Of the text's tokens in replay, nats; NaN where none was read.
    """

    returns: Tensor
    correct: float
    loss: float


def other_mode(
    course: Course, budgets: Sequence[int], mode: str, settings: dict[str, Any], references: Sequence[Reference],
    scorer: Scorer,
) -> dict[str, float]:  # fmt: skip
    """What the mode that is not trained in says, mean over budgets; nothing of recorded traces, which are but replayed.

    They differ: replay forces the full cache's text, so that a lost fact costs the tokens that need it; in generate
    the LLM goes on from its own mistake, and finds another way, or none.
    """
    other = "generate" if mode == "replay" else "replay"
    if other == "generate" and any(reference.problem.trace for reference in references):
        return {}
    unpaid = settings | reward_options({}, other)  # what a reward asks for costs a full cache that reads along
    found = [played(course, budget, other, unpaid, references, scorer) for budget in budgets]
    if other == "generate":
        return {"generate_correct": round(sum(one.correct for one in found) / len(found), 4)}
    return {"replay_loss": round(sum(one.loss for one in found) / len(found), 5)}


@torch.no_grad()
def played(
    course: Course, budget: int, mode: str, settings: dict[str, Any], references: Sequence[Reference], scorer: Scorer
) -> Played:
    """Play references side by side with a scorer, without noise.

    Args:
        course: Gives model and environment.
        budget: Slots.
        mode: `replay` or `generate`.
        settings: Of the environment, such as the weights of the reward.
        references: What to play; those that cannot be played are left out.
        scorer: Ranks the slots.
    """
    config = course.config(budget, mode, **settings)
    playable = course.playable(references, config)
    batch = EpisodeBatch(course.llm, config, len(playable))
    batch.reset(range(batch.n), playable, [0] * batch.n)
    total = torch.zeros(batch.n, device=batch.texts.length.device)
    while batch.active.any():
        total += batch.step(scorer.score(batch.slots())).reward
    return Played(total, float(batch.records.correct.mean()), mean_loss(batch))


def mean_loss(batch: EpisodeBatch) -> float:
    """Loss of the tokens that a batch was made to read, nats; NaN where there are none."""
    return float(batch.records.sums["loss"].sum() / batch.records.counts["loss"].sum())


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of everything an optimizer steps."""
    for group in optimizer.param_groups:
        group["lr"] = rate
