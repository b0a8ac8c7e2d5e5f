"""Outcomes of episodes -> scores: 0 is random eviction, 100 the full cache. Arrays in, arrays out.

Everybody plays the same episodes, so one draw of episodes serves all: agents, random eviction and the full cache, at
every budget of an env. What is hard for all of them cancels in every difference of two.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kv_gym.bench.intervals import LEVEL, N_DRAWS, Interval

MIN_ROOM = 0.05  # accuracy of the full cache over random eviction, below which a cell cannot tell agents apart
_DECIMALS = 9  # rounding of sums must not decide whether an interval includes 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EnvOutcomes:
    """What everybody did in one env.

    Attributes:
        problems: The problem of each episode, [E].
        agents: Score of each episode, 0 to 1, [A, B, E] (agents, budgets, episodes).
        random: The same of random eviction, [B, E].
        full: The same of the full cache, [B, E].
        played: Whether the episode is part of the cell, [B, E]; short texts are no problem at a large budget.
    """

    problems: Sequence[Hashable]
    agents: Floats
    random: Floats
    full: Floats
    played: NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """A number as it was observed, and in each draw of the bootstrap.

    Attributes:
        values: [..., 1 + N_DRAWS]; the observed one first.
    """

    values: Floats

    def interval(self) -> Interval:
        """The observed value and the 95% percentile interval of the draws; `values` has one axis."""
        low, high = np.quantile(self.values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(*(round(float(number), _DECIMALS) for number in (self.values[0], low, high)))


def episode_weights(problems: Sequence[Hashable], seed: Sequence[int], n_draws: int = N_DRAWS) -> Floats:
    """Say how much each episode counts in each draw: problems are drawn first, then the seeds of each drawn problem.

    Args:
        problems: The problem of each episode, [E].
        seed: Of the bootstrap.
        n_draws: How many.

    Returns:
        [1 + n_draws, E], rows sum to 1. The first row is what was observed: problems count alike, and so do the
        seeds of a problem.
    """
    number: dict[Hashable, int] = {}
    group = np.array([number.setdefault(problem, len(number)) for problem in problems])
    count = np.bincount(group)
    rng = np.random.default_rng(list(seed))
    often = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), size=n_draws)  # [n, P]
    weights = np.empty((1 + n_draws, len(group)))
    weights[0] = 1 / count[group]
    for place, size in enumerate(count):
        seeds = often[:, place, None]
        if size > 1:  # a problem that was drawn m times draws m times `size` seeds
            seeds = rng.multinomial(often[:, place] * size, np.full(size, 1 / size)) / size
        weights[1:, group == place] = seeds
    return weights / len(count)


def mean_draws(weights: Floats, values: Floats, played: NDArray[np.bool_]) -> Floats:
    """Mean of `values` [..., B, E] over the episodes of each cell, in each draw: [..., B, D].

    A draw without any episode of the cell is nan.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray((values * played) @ weights.T / (played.astype(np.float64) @ weights.T))


def cell_draws(outcomes: EnvOutcomes, seed: Sequence[int], n_draws: int = N_DRAWS) -> tuple[Floats, Floats]:
    """Score each agent in each cell of an env.

    Returns:
        (Scores, 100 for the full cache, [A, B, 1 + n_draws]; room, that is accuracy of the full cache minus that of
        random eviction, [B, 1 + n_draws]). Scores where there is no room are nan.
    """
    weights = episode_weights(outcomes.problems, seed, n_draws)
    random = mean_draws(weights, outcomes.random, outcomes.played)
    room = np.round(mean_draws(weights, outcomes.full, outcomes.played) - random, _DECIMALS)
    gain = mean_draws(weights, outcomes.agents, outcomes.played) - random
    return 100 * gain / np.where(room > 0, room, np.nan), room


def score_draws(cells: Sequence[Floats]) -> Floats:
    """Mean over the budgets of each env, then over envs.

    Args:
        cells: Scores [A, B, D] of each env, first draw observed.

    Returns:
        [A, D]; draws in which any cell had no room are left out, for all agents alike.
    """
    scores = np.mean([cell.mean(axis=1) for cell in cells], axis=0)  # [A, D]
    return np.round(scores[:, ~np.isnan(scores).any(axis=0)], _DECIMALS)


def better(ours: Floats, theirs: Floats) -> bool:
    """Whether the 95% interval of our score minus theirs, draw by draw, lies above 0."""
    return Draws(ours - theirs).interval().low > 0
