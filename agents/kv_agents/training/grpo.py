"""Tune a scorer on the environment's reward: ``kv-gym train grpo``.

A group of rollouts of one problem differs only in what its Plackett-Luce policy drew; what the group gained more than
its mean is each rollout's advantage.

Source: ForesightKV, arXiv:2602.03203, RL stage, which follows GRPO (arXiv:2402.03300). Differs: groups live in one
batch, or one for each of some workers; the log-probability of a draw is exact (`kv_agents.learned.policy`); ratios are
of each pick, as GRPO's are of each token, not of a whole draw (`ratio`); several minibatch steps, so that clipping
acts; groups without variance are skipped, not blown up; advantages per decision from the reward that follows it, or one
per episode as in the paper (`credit`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kv_agents.learned import checkpoints
from kv_agents.learned.policy import pick_log_probs
from kv_agents.learned.scorer import Scorer
from kv_agents.training.course import Course, check_counts, loss_alone, other_mode, played, reward_options, set_rate
from kv_agents.training.rollouts import Groups, Policy, Rollouts, joined, on, roll, roll_apart
from kv_gym.bench.player import moved
from kv_gym.bench.progress import steps
from kv_gym.bench.workers import Crew, Lost, Task, WorkerError, Workers
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.errors import ConfigError

VALIDATE_EVERY = 20  # iterations
SAVE_EVERY = 5  # iterations
MOST = 10.0  # nats; a log-ratio beyond is clamped, or its exponential would be all that a batch teaches


@dataclass
class GRPORecipe:
    """Every knob of the tuning.

    Attributes:
        start: Checkpoint to begin from, and to stay close to.
        mode: `replay` (dense losses) or `generate` (the answer counts).
        budgets: Slots, taken in turn, one an iteration.
        families: Problem families; empty means all.
        iterations: Batches of rollouts.
        problems: Groups a batch.
        group: Rollouts a group.
        credit: `decision`: advantage from the rewards after each decision. `episode`: one for all, from their sum.
        gamma: Discount per decision of the rewards after it.
        weights: Of the reward's terms, by the names of the settings, such as w_loss; what is not named weighs nothing.
            `--set w_loss=0.05` sets one and leaves the others.
        temperature: Of the policy, in units of the scores' spread over a pool at the start.
        minibatches: Optimizer steps a batch.
        ratio: What is compared with the policy that drew: each `pick`, which means the same at any `evict_every`, or
            the whole `order` of a draw, as the shipped scorers were tuned (log-ratios were not clamped then). Over
            an order, changes add up: of 128 picks nearly all are clipped.
        clip: Largest change of that probability's ratio that is rewarded.
        kl: Weight of the divergence from the start.
        lr: Peak learning rate of Adam; falls linearly to zero.
        both_modes: Evaluate in the other mode too: answers beside losses (`kv_agents.training.course.other_mode`).
        n_train, n_validation: Problems.
        seed: Of draws and order.
    """

    start: str = "foresight"
    mode: Literal["replay", "generate"] = "replay"
    budgets: tuple[int, ...] = (48, 64, 96)
    families: tuple[str, ...] = ()
    iterations: int = 450
    problems: int = 8
    group: int = 8
    credit: Literal["decision", "episode"] = "decision"
    gamma: float = 0.95
    weights: dict[str, float] = field(default_factory=loss_alone)
    temperature: float = 0.15
    minibatches: int = 8
    ratio: Literal["pick", "order"] = "pick"
    clip: float = 0.2
    kl: float = 0.005
    lr: float = 3e-4
    both_modes: bool = True
    n_train: int = 1024
    n_validation: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, but=("seed",))


def policy_loss(new: Tensor, old: Tensor, start: Tensor, advantage: Tensor, clip: float, kl: float) -> Tensor:
    """The clipped surrogate of PPO with a penalty on the divergence from the start, mean over picks (or orders).

    Args:
        new: Log-probabilities under the policy that learns, [R, L, H_kv, k].
        old: Under the one that drew.
        start: Under the one that training began from.
        advantage: [R].
        clip: Range of the ratio.
        kl: Weight of the divergence, estimated as exp(d) - d - 1 with d = start - new (never negative).
    """
    ratio, gain = (new - old).clamp(-MOST, MOST).exp(), advantage[:, None, None, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    gap = (start - new).clamp(-MOST, MOST)
    return (-surrogate + kl * (gap.exp() - gap - 1)).mean()


class Tuner:
    """Tunes one scorer.

    Args:
        course: Problems.
        recipe: Knobs.
        work: Folder of state and log; a run resumes from it.
        workers: Who plays the rollouts; by default this process does. They are the same ones.
    """

    def __init__(self, course: Course, recipe: GRPORecipe, work: Path, workers: Workers | None = None) -> None:
        self.course, self.recipe, self.workers = course, recipe, workers
        self.crew: Crew | None = None
        self.work, self.reward = course.work(work, recipe), reward_options(recipe.weights, recipe.mode)
        path = checkpoints.find(recipe.start)
        self.start, self.start_info = checkpoints.load(path)
        self.start_info.check_model(course.llm, path.stem)
        self.scorer = Scorer(self.start_info.scorer)
        self.scorer.load_state_dict(self.start.state_dict())
        for module in (self.scorer, self.start):
            module.to(course.llm.shape.device)
        self.scale = 0.0
        self.evict_every = course.config(recipe.budgets[0], recipe.mode).evict_every
        self.optimizer = torch.optim.Adam(self.scorer.parameters(), lr=recipe.lr)
        self.iteration, self.seconds = 0, 0.0
        self.sums: list[dict[str, float]] = []  # numbers of the iterations since the last validation

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        state = self.work.load()
        if state is None:
            return
        self.scorer.load_state_dict(state["scorer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.scale = state["iteration"], state["scale"]
        self.sums, self.seconds = state["sums"], state["seconds"]

    def save(self) -> None:
        """Write the state."""
        self.work.save({
            "iteration": self.iteration, "scorer": self.scorer.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scale": self.scale, "sums": self.sums, "seconds": self.seconds,
        })  # fmt: skip

    def run(self) -> None:
        """Tune to the last iteration."""
        self.work.begin()
        if self.workers is None:
            self._run()
            return
        config = self.course.config(self.recipe.budgets[0], self.recipe.mode)
        with Crew(self.workers, config, self.course.llm) as self.crew:
            self._run()
        self.crew = None

    def _run(self) -> None:
        started = time.time() - self.seconds
        if not self.work.log:
            self._validate(0, {})
            self.save()
        for number in steps(self.course.progress, "iterations", self.iteration, self.recipe.iterations):
            rollouts, numbers = self._roll(number)
            self.sums.append(
                numbers | self._learn(rollouts, torch.Generator().manual_seed(_seed(self.recipe.seed, number)))
            )
            self.iteration, self.seconds = number + 1, time.time() - started
            if self.iteration % VALIDATE_EVERY == 0 or self.iteration == self.recipe.iterations:
                means = {n: round(float(np.mean([row[n] for row in self.sums])), 5) for n in self.sums[0]}
                score = self._validate(self.iteration, means)
                self.sums = []
                self.course.progress.describe(f"validation {score:.4f}")
            if self.iteration % SAVE_EVERY == 0 or self.iteration == self.recipe.iterations:
                self.save()

    def _roll(self, number: int) -> tuple[Rollouts, dict[str, float]]:
        """Play one batch of groups under the current policy."""
        recipe, course = self.recipe, self.course
        config = course.config(recipe.budgets[number % len(recipe.budgets)], recipe.mode, **self.reward)
        references = course.playable(course.train, config)
        chosen = np.random.default_rng([recipe.seed, number, 1]).choice(len(references), recipe.problems, replace=False)
        luck = np.random.SeedSequence([recipe.seed, number, 2]).generate_state(recipe.problems, np.uint64)
        groups = Groups(
            config, [references[i] for i in chosen], [int(seed >> 1) for seed in luck], recipe.group, recipe.credit,
            recipe.gamma,
        )  # fmt: skip
        if self.scale == 0.0:
            self.scale = self._spread(groups)
        policy = Policy(
            self.scorer.config, self.scorer.state_dict(), self.scale, recipe.temperature, recipe.ratio == "pick"
        )
        rollouts = roll(course.llm, policy, groups) if self.crew is None else self._roll_apart(policy, groups)
        return rollouts, {
            "return": float(rollouts.returns.mean()), "correct": float(rollouts.correct.mean()),
            "teaching": len(rollouts.advantage) / rollouts.made,
        }  # fmt: skip

    def _roll_apart(self, policy: Policy, groups: Groups) -> Rollouts:
        """Let workers play.

        Raises:
            WorkerError: One part could not be played.
        """
        assert self.crew is not None
        cpu, device = torch.device("cpu"), self.course.llm.shape.device
        sent = replace(policy, weights={name: weights.to(cpu) for name, weights in policy.weights.items()})
        here = replace(groups, references=[moved(one, cpu) for one in groups.references])
        parts: dict[int, Rollouts] = {}
        tasks = [
            Task("call", (roll_apart, sent, part), place) for place, part in enumerate(here.split(self.crew.workers.n))
        ]
        for task, found in self.crew.do(tasks):
            if isinstance(found, Lost):
                raise WorkerError(f"rollouts could not be played. {found.reason}")
            parts[task.of] = on(device, found)
        return joined([parts[place] for place in sorted(parts)])

    @torch.no_grad()
    def _spread(self, groups: Groups) -> float:
        """Spread of the scores over unprotected slots where episodes begin: temperature has a meaning in its unit."""
        n = len(groups.references)
        batch = EpisodeBatch(self.course.llm, groups.config, n)
        batch.reset(range(n), groups.references, [0] * n)
        view = batch.slots()
        scores = self.scorer.score(view).masked_fill(view.protected, torch.nan)
        return float((scores - scores.nanmean(-1, keepdim=True)).square().nanmean().sqrt())

    def _log_prob(self, scorer: Scorer, inputs: Tensor) -> Tensor:
        """Log-probability of stored draws, [R, L, H_kv, k or 1]."""
        logits = -scorer(inputs) / self.scale / self.recipe.temperature
        return self._compared(pick_log_probs(logits, self.evict_every))

    def _compared(self, picks: Tensor) -> Tensor:
        """What the recipe compares: picks [..., k] as they are, or their order's [..., 1]."""
        return picks if self.recipe.ratio == "pick" else picks.sum(-1, keepdim=True)

    def _learn(self, rollouts: Rollouts, generator: torch.Generator) -> dict[str, float]:
        """Take the minibatch steps."""
        if not len(rollouts.advantage):
            return {"loss": 0.0, "divergence": 0.0, "clipped": 0.0}
        with torch.no_grad():
            start = self._log_prob(self.start, rollouts.inputs)
        losses, gaps, clipped = [], [], []
        set_rate(self.optimizer, self.recipe.lr * (1 - self.iteration / self.recipe.iterations))
        order = torch.randperm(len(rollouts.advantage), generator=generator).to(rollouts.advantage.device)
        for part in order.tensor_split(min(self.recipe.minibatches, len(order))):
            new = self._log_prob(self.scorer, rollouts.inputs[part])
            old = rollouts.log_prob[part]
            loss = policy_loss(new, old, start[part], rollouts.advantage[part], self.recipe.clip, self.recipe.kl)
            if not loss.isfinite():
                raise ConfigError(
                    f"iteration {self.iteration}: the loss is {float(loss.detach())}. Either the policy left its "
                    f"start too far behind, or an input is out of all range. Use a lower lr than {self.recipe.lr} or "
                    f"a higher kl than {self.recipe.kl}, and another --work."
                )
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
            self.optimizer.step()
            losses.append(float(loss.detach()))
            gaps.append(float((new - start[part]).detach().abs().mean()))
            clipped.append(float(((new - old).exp() - 1).abs().gt(self.recipe.clip).float().mean()))
        return {"loss": float(np.mean(losses)), "divergence": gaps[-1], "clipped": clipped[-1]}

    @torch.no_grad()
    def _validate(self, step: int, means: dict[str, float]) -> float:
        """Mean return of the deterministic policy on the validation problems.

        For the curve alone. Returns have heavy tails, and the best of many noisy means would be a lucky one: the last
        scorer is what is saved.
        """
        row: dict[str, Any] = {"step": step, **means}
        returns = []
        for budget in self.recipe.budgets:
            found = played(
                self.course, budget, self.recipe.mode, self.reward, self.course.validation, self.scorer
            )  # fmt: skip
            total, correct = float(found.returns.mean()), found.correct
            row[f"validation_return_{budget}"], row[f"validation_correct_{budget}"] = round(total, 5), round(correct, 4)
            returns.append(total)
        score = float(np.mean(returns))
        if self.recipe.both_modes:
            row |= other_mode(
                self.course, self.recipe.budgets, self.recipe.mode, self.reward, self.course.validation, self.scorer
            )
        self.work.add(row | {"validation_return": round(score, 5), "seconds": round(self.seconds)})
        return score

    def finish(self, path: Path) -> None:
        """Write the checkpoint."""
        recipe = self.recipe
        info = self.course.describe(
            self.scorer,
            recipe,
            self.work.log,
            method="grpo",
            families=recipe.families or self.start_info.families,
            evict_every=self.evict_every,
            start=recipe.start,
        )
        checkpoints.save(self.scorer, info, path)
        self.work.close()


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
