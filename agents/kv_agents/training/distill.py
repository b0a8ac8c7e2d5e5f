"""Distil Golden Eviction into a scorer: ``kv-gym train distill``.

Episodes are replayed; at every decision the scorer is asked to rank the slots as hindsight does. The first rounds
follow golden evictions, the later ones the student's own (DAgger), so that it learns on caches it will meet.

Source: ForesightKV, arXiv:2602.03203, supervised stage: pairwise hinge on golden scores. Differs: the pairs that
count are those across the cut between what golden keeps and evicts, weighted by what a wrong choice would lose
(`loss="regret"`; `all` is the paper's); student rounds; several budgets at once. `loss="order"` learns KVP's all-budget
ranking instead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kv_agents.learned import checkpoints
from kv_agents.learned.inputs import all_of, missing_columns, read_inputs
from kv_agents.learned.policy import pick_log_probs
from kv_agents.learned.scorer import Scorer, ScorerConfig
from kv_agents.training.course import Course, check_counts, mean_loss, set_rate
from kv_gym.bench.progress import steps
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.eviction import slots_to_keep
from kv_gym.engine.reference import Reference
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError

BEHIND = -1e9  # a logit below any score; protected slots are no part of an order, and -inf has no gradient


@dataclass
class DistillRecipe:
    """Every knob of the distillation.

    Attributes:
        inputs: What the scorer reads (`kv_agents.learned.inputs.INPUTS`).
        hidden: Width of its hidden layer.
        shared: One MLP for all heads.
        budgets: Slots, taken in turn, one a round.
        families: Problem families; empty means all.
        rounds: Batches of episodes.
        golden_rounds: The first so many follow golden evictions, the others the student's.
        width: Episodes side by side.
        rows: Of them, how many of each decision become a lesson.
        updates: Optimizer steps per decision.
        lr: Peak learning rate of Adam; falls linearly to zero.
        loss: `cut`, `all` or `regret`, see `ranking_loss`; `order`, see `order_loss`.
        label: Of a slot: `max` (golden), or `sum` of the future attention over blocks, as KVP has it.
        margin: Of the hinge, in units of the scores.
        samples: Orders drawn per head, for `order`.
        buffer: Lessons that are mixed; 160 are about 600 MB on the embedded model at a budget of 128.
        validate_every, save_every: Rounds.
        store_labels: Keep golden labels in files beside the state, for models that take long to read a text
            (`kv_gym.engine.golden.stored_attention` says how large).
        n_train, n_validation: Problems.
        seed: Of weights and order.
    """

    inputs: tuple[str, ...] = ("unrotated_keys", "values", "statistics", "traits")
    hidden: int = 32
    shared: bool = False
    budgets: tuple[int, ...] = (48, 64, 96, 128)
    families: tuple[str, ...] = ()
    rounds: int = 80
    golden_rounds: int = 60
    width: int = 32
    rows: int = 8
    updates: int = 2
    lr: float = 3e-3
    loss: Literal["cut", "all", "regret", "order"] = "regret"
    label: Literal["max", "sum"] = "max"
    margin: float = 0.1
    samples: int = 8
    buffer: int = 160
    validate_every: int = 40
    save_every: int = 10
    store_labels: bool = False
    n_train: int = 1024
    n_validation: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, but=("golden_rounds", "seed"))


@dataclass
class Lesson:
    """Some rows of one decision.

    Attributes:
        inputs: [B, L, H_kv, S, F].
        golden: Golden scores, [B, L, H_kv, S].
        protected: [B, L, H_kv, S] bool.
        evict_every: Slots that go.
    """

    inputs: Tensor
    golden: Tensor
    protected: Tensor
    evict_every: int


def order_loss(scores: Tensor, lesson: Lesson, samples: int) -> Tensor:
    """Policy gradient of a Plackett-Luce ranking that is paid for every budget at once.

    An order of the unprotected slots, best first, costs at budget c the label of all slots behind place c; summed over
    all budgets that is sum_r (r - 1) label_r. Orders are drawn by Gumbel-sort, compared with each other
    (leave-one-out), and scaled by the best and the worst order.

    Args:
        scores: [B, L, H_kv, S].
        lesson: Has the labels.
        samples: Orders drawn per head, at least 2.

    Returns:
        A surrogate whose gradient is that of the expected cost, mean over heads and rows.

    Source: KVP, "Learning to Evict from Key-Value Cache", arXiv:2602.10238. Its normalisation was not available to us.
    """
    place, n = torch.arange(scores.shape[-1], device=scores.device), (~lesson.protected).sum(-1)
    free = scores.masked_fill(lesson.protected, BEHIND)
    label = lesson.golden.masked_fill(lesson.protected, 0)
    uniform = torch.rand(samples, *scores.shape, device=scores.device).clamp(1e-9, 1 - 1e-7)
    order = (free.detach() - torch.log(-torch.log(uniform))).argsort(-1, descending=True)  # [M, B, L, H_kv, S]

    def cost(sorted_label: Tensor) -> Tensor:  # protected slots come last and cost nothing
        return (sorted_label * place).sum(-1)

    ascending = lesson.golden.masked_fill(lesson.protected, torch.inf).sort(-1).values
    best, worst = cost(label.sort(-1, descending=True).values), cost(ascending.masked_fill(place >= n[..., None], 0))
    gain = (worst - cost(label.expand_as(order).gather(-1, order))) / (worst - best).clamp_min(1e-9)  # 1 is the best
    advantage = (gain - gain.mean(0)) * samples / (samples - 1)  # minus the mean of the others
    picks = pick_log_probs(free.expand_as(order).gather(-1, order), len(place))
    log_prob = picks.masked_fill(place >= n[..., None], 0).sum(-1)
    return -(advantage * log_prob / n).mean()


def ranking_loss(scores: Tensor, lesson: Lesson, margin: float, pairs: Literal["all", "cut", "regret"]) -> Tensor:
    """Pairwise hinge: of two unprotected slots the one with the higher golden score should lead by `margin`.

    Args:
        scores: [B, L, H_kv, S].
        lesson: Has the golden scores.
        margin: In units of the scores.
        pairs: `all` pairs of different golden scores; `cut`: only those of a slot that golden keeps and one it evicts;
            `regret`: the same, each weighted by the difference of their golden scores, which is what the wrong choice
            would lose.

    Returns:
        Mean over pairs (weighted), then over heads and rows.
    """
    candidate = ~lesson.protected
    if pairs == "all":
        lead = scores[..., :, None] - scores[..., None, :]  # [B, L, H_kv, i, j]
        wanted = lesson.golden[..., :, None] > lesson.golden[..., None, :]
        wanted &= candidate[..., :, None] & candidate[..., None, :]
    else:
        kept = kept_mask(lesson.golden, lesson.protected, lesson.evict_every)
        gone = (~kept).nonzero()[:, -1].reshape(*kept.shape[:-1], lesson.evict_every)
        lead = scores[..., :, None] - scores.gather(-1, gone)[..., None, :]  # [B, L, H_kv, S, evict_every]
        wanted = (kept & candidate)[..., None].expand_as(lead)
        if pairs == "regret":
            wanted = wanted * (lesson.golden[..., :, None] - lesson.golden.gather(-1, gone)[..., None, :])
    hinge = (margin - lead).relu() * wanted
    return (hinge.sum((-2, -1)) / wanted.sum((-2, -1)).clamp_min(1e-9)).mean()


def kept_attention(scores: Tensor, lesson: Lesson) -> Tensor:
    """Golden scores that stay under `scores`, over those that stay under golden eviction, [B, L, H_kv]."""
    mine = kept_mask(scores, lesson.protected, lesson.evict_every)
    theirs = kept_mask(lesson.golden, lesson.protected, lesson.evict_every)
    return (lesson.golden * mine).sum(-1) / (lesson.golden * theirs).sum(-1).clamp_min(1e-9)


def kept_mask(scores: Tensor, protected: Tensor, evict_every: int) -> Tensor:
    """Slots that stay under `scores`, [B, L, H_kv, S] bool."""
    keep = slots_to_keep(scores, protected, evict_every)
    return torch.zeros_like(protected).scatter_(-1, keep, True)


def eviction_recall(scores: Tensor, lesson: Lesson) -> Tensor:
    """Share of the golden evictions that `scores` evict too, [B, L, H_kv]."""
    mine = ~kept_mask(scores, lesson.protected, lesson.evict_every)
    theirs = ~kept_mask(lesson.golden, lesson.protected, lesson.evict_every)
    return (mine & theirs).sum(-1) / lesson.evict_every


def decisions(
    batch: EpisodeBatch, references: Sequence[Reference], choose: Callable[[SlotView], Tensor]
) -> Iterator[tuple[SlotView, Tensor, Tensor]]:
    """Replay references side by side, evicting by `choose`.

    Yields:
        (view, running rows [R], scores that will be evicted by [N, L, H_kv, S]) at every decision.
    """
    batch.reset(range(len(references)), references, [0] * len(references))
    while batch.active.any():
        view = batch.slots()
        with torch.no_grad():
            scores = choose(view)
        yield view, batch.active.nonzero()[:, 0], scores
        batch.step(scores)
        batch.drop_answers()


class Distiller:
    """Trains one scorer.

    Args:
        course: Problems.
        recipe: Knobs.
        work: Folder of state and log; a run resumes from it, with an empty buffer of lessons.
    """

    def __init__(self, course: Course, recipe: DistillRecipe, work: Path) -> None:
        self.course, self.recipe = course, recipe
        self.work = course.work(work, recipe)
        self.columns = all_of(recipe.inputs)
        torch.manual_seed(recipe.seed)
        self.scorer: Scorer | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.lessons: deque[Lesson] = deque(maxlen=recipe.buffer)
        self.losses: deque[float] = deque(maxlen=200)
        self.labels = self.work.folder / "labels" if recipe.store_labels else None
        self.seconds = 0.0
        self.best: tuple[float, dict[str, Tensor]] = (np.inf, {})
        self.round = 0

    def _build(self, inputs: Tensor) -> Scorer:
        recipe, shape = self.recipe, inputs.shape
        config = ScorerConfig(
            recipe.inputs, recipe.hidden, recipe.shared, shape[1], shape[2], shape[-1], columns=self.columns
        )
        self.scorer = Scorer(config).to(inputs.device)
        self.optimizer = torch.optim.Adam(self.scorer.parameters(), lr=recipe.lr)
        return self.scorer

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        state = self.work.load()
        if state is None:
            return
        self.columns = state["columns"]
        missing = missing_columns(self.columns)
        if missing:
            raise ConfigError(
                f"the training in {self.work.folder} reads what is not computed any more: {', '.join(missing)}. Begin "
                "again with another --work."
            )
        shape = self.course.llm.shape
        scorer = self._build(
            torch.zeros(1, shape.n_layers, shape.n_kv_heads, 1, state["n_inputs"], device=shape.device)
        )
        scorer.load_state_dict(state["scorer"])
        assert self.optimizer is not None
        self.optimizer.load_state_dict(state["optimizer"])
        self.round, self.best = state["round"], (state["best_loss"], state["best"])
        self.losses.extend(state["losses"])
        self.lessons.extend(Lesson(**lesson) for lesson in state["lessons"])
        self.seconds = state["seconds"]

    def save(self) -> None:
        """Write the state."""
        assert self.scorer is not None and self.optimizer is not None
        self.work.save({
            "round": self.round, "scorer": self.scorer.state_dict(), "optimizer": self.optimizer.state_dict(),
            "n_inputs": self.scorer.config.n_inputs, "columns": self.columns, "best_loss": self.best[0],
            "best": self.best[1], "losses": list(self.losses), "lessons": [vars(lesson) for lesson in self.lessons],
            "seconds": self.seconds,
        })  # fmt: skip

    def run(self) -> None:
        """Train to the last round."""
        self.work.begin()
        started = time.time() - self.seconds
        for number in steps(self.course.progress, "rounds", self.round, self.recipe.rounds):
            self._teach(number)
            self.round, self.seconds = number + 1, time.time() - started
            if self.round % self.recipe.validate_every == 0 or self.round == self.recipe.rounds:
                row = {"step": self.round, "loss": round(float(np.mean(self.losses)), 5), **self.validate()}
                self.work.add(row | {"seconds": round(self.seconds)})
                self.course.progress.describe(f"validation loss {row['validation_loss']:.3f}")
            if self.round % self.recipe.save_every == 0 or self.round == self.recipe.rounds:
                self.save()

    def _teach(self, number: int) -> None:
        """Replay one batch of episodes, learning at every decision."""
        recipe, course = self.recipe, self.course
        rng = np.random.default_rng([recipe.seed, number])
        torch.manual_seed(int(rng.integers(2**31)))
        config = course.config(recipe.budgets[number % len(recipe.budgets)], "replay")
        references = course.playable(course.train, config)
        chosen = rng.choice(len(references), min(recipe.width, len(references)), replace=False)
        rate = recipe.lr * (1 - number / recipe.rounds)
        read: dict[str, Tensor] = {}

        def choose(view: SlotView) -> Tensor:
            read["inputs"] = read_inputs(view, self.columns)
            if self.scorer is None:
                self._build(read["inputs"]).standardise(read["inputs"])
            assert self.scorer is not None
            return golden(view) if number < recipe.golden_rounds else self.scorer(read["inputs"])

        batch = EpisodeBatch(course.llm, config, len(chosen), hindsight=True, label_folder=self.labels)
        for view, running, _ in decisions(batch, [references[i] for i in chosen], choose):
            rows = running[torch.randperm(len(running))[: recipe.rows].to(running.device)]
            label = golden(view) if recipe.label == "max" else future_sum(view)
            self.lessons.append(Lesson(read["inputs"][rows], label[rows], view.protected[rows], view.evict_every))
            for _ in range(recipe.updates):
                self._update(self.lessons[int(rng.integers(len(self.lessons)))], rate)

    def _update(self, lesson: Lesson, rate: float) -> None:
        assert self.scorer is not None and self.optimizer is not None
        set_rate(self.optimizer, rate)
        recipe, scores = self.recipe, self.scorer(lesson.inputs)
        if recipe.loss == "order":
            loss = order_loss(scores, lesson, recipe.samples)
        else:
            loss = ranking_loss(scores, lesson, recipe.margin, recipe.loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss.detach()))

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Replay the validation problems under the student's own evictions; keeps the scorer with the lowest loss.

        Along golden replays a scorer that never met its own mistakes looks better than it is.

        Returns:
            `loss`: of the trace's tokens, nats. `recall`: share of the golden evictions that the scorer makes too.
            `kept`: golden scores that stay, over those that stay under golden eviction. Means over budgets; the loss
            for each as well.
        """
        assert self.scorer is not None
        losses, recalls, kept = {}, [], []
        for budget in self.recipe.budgets:
            config = self.course.config(budget, "replay")
            references = self.course.playable(self.course.validation, config)
            batch = EpisodeBatch(self.course.llm, config, len(references), hindsight=True, label_folder=self.labels)
            for view, running, scores in decisions(batch, references, self.score):
                lesson = Lesson(torch.empty(0), golden(view)[running], view.protected[running], view.evict_every)
                recalls.append(float(eviction_recall(scores[running], lesson).mean()))
                kept.append(float(kept_attention(scores[running], lesson).mean()))
            losses[budget] = round(mean_loss(batch), 4)
        loss = float(np.mean(list(losses.values())))
        if loss <= self.best[0]:  # early stop: the best one is what is saved in the end
            self.best = loss, {name: tensor.clone() for name, tensor in self.scorer.state_dict().items()}
        means = {"validation_loss": loss, "recall": float(np.mean(recalls)), "kept": float(np.mean(kept))}
        return {**{name: round(value, 4) for name, value in means.items()}, "validation_loss_by_budget": losses}

    def score(self, view: SlotView) -> Tensor:
        """Keep scores of the student, [N, L, H_kv, S]."""
        assert self.scorer is not None
        return self.scorer.score(view)

    def finish(self, path: Path) -> None:
        """Write the checkpoint of the best validation."""
        assert self.scorer is not None
        self.scorer.load_state_dict(self.best[1])
        recipe = self.recipe
        info = self.course.describe(
            self.scorer,
            recipe,
            self.work.log,
            method="kvp" if recipe.loss == "order" else "distill",
            families=recipe.families,
            evict_every=self.course.config(recipe.budgets[0], "replay").evict_every,
        )
        checkpoints.save(self.scorer, info, path)
        self.work.close()


def golden(view: SlotView) -> Tensor:
    """Golden scores of the live slots, [N, L, H_kv, S]."""
    assert view.hindsight is not None
    return view.hindsight.future


def future_sum(view: SlotView) -> Tensor:
    """Attention that the live slots will get, summed over the blocks to come, [N, L, H_kv, S]."""
    assert view.hindsight is not None
    return view.hindsight.total
