"""95% intervals by bootstrap: problems are drawn first, then the seeds of each drawn problem.

Episodes of one problem are no independent evidence, so a problem is what is drawn. Every statistic here is a mean over
problems of the mean over seeds, or a ratio of two such means, with the percentile interval of `N_DRAWS` draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 4000
LEVEL = 0.95
_CELLS_AT_ONCE = 2_000_000  # drawn values held in memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float], problems: Sequence[Hashable], seed: int = 0) -> Interval | None:
    """Mean over problems of the mean over seeds; None without values.

    Args:
        values: One a episode.
        problems: The problem of each episode.
        seed: Of the bootstrap.
    """
    if not len(values):
        return None
    table, count = _by_problem(problems, values)
    return interval_of(float(_means(table, count)[0]), _draws(table, count, seed)[0])


def proportion_interval(values: Sequence[float], problems: Sequence[Hashable], seed: int = 0) -> Interval | None:
    """The same for scores from 0 to 1, mostly yes and no.

    Where all agree the bootstrap knows no doubt; then the interval is the exact one (Clopper-Pearson) over problems,
    so that 0 of 32 is [0, 0.11] and not [0, 0].
    """
    interval = mean_interval(values, problems, seed)
    if interval is None or interval.value not in (0.0, 1.0):
        return interval
    doubt = 1 - ((1 - LEVEL) / 2) ** (1 / len(set(problems)))
    return Interval(0.0, 0.0, doubt) if interval.value == 0 else Interval(1.0, 1 - doubt, 1.0)


def ratio_interval(
    top: Sequence[float], bottom: Sequence[float], problems: Sequence[Hashable], seed: int = 0
) -> Interval | None:
    """Mean of `top` over mean of `bottom`, both of the same episodes; None without values or with a bottom of zero."""
    if not len(top):
        return None
    table, count = _by_problem(problems, top, bottom)
    above, below = _means(table, count)
    if below == 0:
        return None
    drawn_above, drawn_below = _draws(table, count, seed)
    possible = drawn_below != 0
    return interval_of(float(above / below), drawn_above[possible] / drawn_below[possible])


def difference_interval(
    ours: Sequence[float], theirs: Sequence[float], problems: Sequence[Hashable], seed: int = 0
) -> Interval | None:
    """Mean difference of two agents on the same episodes: pairs are drawn, so what is hard for both cancels."""
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)], problems, seed)


def drawn_means(
    columns: Sequence[Sequence[float]], problems: Sequence[Hashable], seed: int = 0
) -> tuple[Floats, Floats]:
    """Means of several columns of the same episodes, and those of `N_DRAWS` bootstrap samples that all columns share.

    Returns:
        ([C], [C, N_DRAWS]).
    """
    table, count = _by_problem(problems, *columns)
    return _means(table, count), _draws(table, count, seed)


def interval_of(value: float, draws: Floats) -> Interval:
    """A value with the interval that holds `LEVEL` of its draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _by_problem(problems: Sequence[Hashable], *columns: Sequence[float]) -> tuple[Floats, NDArray[np.int64]]:
    """Sort episodes by problem, and those of a problem by value: an interval does not depend on the order of rows.

    Returns:
        (Values [C, P, K], padded with zeros; episodes of each problem [P]).
    """
    number = {problem: i for i, problem in enumerate(sorted(set(problems), key=lambda one: (str(type(one)), one)))}
    group, values = np.array([number[problem] for problem in problems]), np.array(columns, dtype=np.float64)
    count = np.bincount(group)
    order = np.lexsort((*values[::-1], group))
    place = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    table = np.zeros((len(columns), len(count), int(count.max())))
    table[:, group[order], place] = values[:, order]
    return table, count


def _means(table: Floats, count: NDArray[np.int64]) -> Floats:
    """Mean over problems of the mean over seeds, [C]."""
    return np.asarray((table.sum(-1) / count).mean(-1))


def _draws(table: Floats, count: NDArray[np.int64], seed: int) -> Floats:
    """`_means` of `N_DRAWS` bootstrap samples, [C, N_DRAWS]; all columns share the drawn episodes."""
    rng = np.random.default_rng(seed)
    columns, n_problems, n_seeds = table.shape
    at_once = max(1, _CELLS_AT_ONCE // (columns * n_problems * n_seeds))
    parts = [
        _draw(table, count, rng, min(at_once, N_DRAWS - start)) for start in range(0, N_DRAWS, at_once)
    ]  # [C, part] each
    return np.concatenate(parts, axis=-1)


def _draw(table: Floats, count: NDArray[np.int64], rng: np.random.Generator, n: int) -> Floats:
    _, n_problems, n_seeds = table.shape
    problem = rng.integers(n_problems, size=(n, n_problems))
    if n_seeds == 1:
        return np.asarray(table[:, problem, 0].mean(-1))
    size = count[problem][..., None]  # [n, P, 1]
    episode = (rng.random((n, n_problems, n_seeds)) * size).astype(np.int64)
    drawn = table[:, problem[..., None], episode] * (np.arange(n_seeds) < size)  # [C, n, P, K]
    return np.asarray((drawn.sum(-1) / size[..., 0]).mean(-1))
