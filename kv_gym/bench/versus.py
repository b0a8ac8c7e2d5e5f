"""Agents against a chosen one, problem by problem: differences with intervals and p-values, for papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test

from kv_gym.bench.intervals import Interval, difference_interval
from kv_gym.bench.labels import labels
from kv_gym.bench.rows import EpisodeRow
from kv_gym.errors import unknown_name

N_FLIPS = 9999
"""Sign flips that a p-value is counted from, where there are not fewer in all: the smallest is 2e-4."""
LOSS = "loss"


@dataclass(frozen=True)
class Difference:
    """An agent minus the chosen one, on the problems that both played at a budget.

    Attributes:
        agent: Label in tables, as in `kv_gym.bench.labels`.
        interval: Mean over problems; accuracy as a share, loss in nats a token.
        p: Two-sided: how often a difference as large comes about where signs are drawn for each problem.
        p_holm: The same, corrected by Holm's method for all differences of its table.
        n_problems: That both played.
    """

    agent: str
    budget: int
    interval: Interval
    p: float
    p_holm: float
    n_problems: int


@dataclass(frozen=True)
class Versus:
    """All differences of one kind.

    Attributes:
        measure: `accuracy` or `loss`.
        against: The chosen agent.
        differences: By agent, then budget.
    """

    measure: str
    against: str
    differences: tuple[Difference, ...]

    def of(self, agent: str, budget: int) -> Difference | None:
        """One of them; None where the two have no problem in common."""
        return next((one for one in self.differences if (one.agent, one.budget) == (agent, budget)), None)


def versus(rows: Sequence[EpisodeRow], against: str) -> list[Versus]:
    """Compare all agents with one: by accuracy where texts were written, by loss where they were replayed.

    Source: the sign-flip permutation test (Fisher 1935) over problems, of which seeds of one are averaged; Holm 1979.

    Raises:
        UnknownNameError: The chosen agent is not in the rows.
    """
    label = labels(rows)
    agents = list(dict.fromkeys(label[row.agent, row.agent_source] for row in rows))
    if against not in agents:
        raise unknown_name("agent in these rows", against, agents)
    found = [
        _table("accuracy", [row for row in rows if row.mode == "generate"], label, against, _score),
        _table(LOSS, [row for row in rows if row.mode == "replay"], label, against, lambda row: row.measured(LOSS)),
    ]
    return [table for table in found if table.differences]


def _score(row: EpisodeRow) -> float | None:
    """What failed counts as wrong."""
    return row.correct or 0.0


def _table(
    measure: str, rows: Sequence[EpisodeRow], label: Mapping[tuple[str, str], str], against: str,
    value: Callable[[EpisodeRow], float | None],
) -> Versus:  # fmt: skip
    by: dict[tuple[str, int], dict[tuple[str, int], float]] = {}
    for row in rows:
        if (number := value(row)) is not None:
            by.setdefault((label[row.agent, row.agent_source], row.budget), {})[row.problem, row.seed] = number
    parts = []
    for agent in dict.fromkeys(agent for agent, _ in by if agent != against):
        for budget in sorted({budget for _, budget in by}):
            ours, theirs = by.get((agent, budget), {}), by.get((against, budget), {})
            both = sorted(ours.keys() & theirs.keys())
            problems = [problem for problem, _ in both]
            pairs = [ours[one] for one in both], [theirs[one] for one in both]
            interval = difference_interval(*pairs, problems)
            if interval is not None:
                parts.append((agent, budget, interval, p_value(*pairs, problems), len(set(problems))))
    corrected = holm([p for _, _, _, p, _ in parts])
    return Versus(
        measure, against,
        tuple(Difference(*one[:4], p_holm, one[4]) for one, p_holm in zip(parts, corrected, strict=True)),
    )  # fmt: skip


def p_value(ours: Sequence[float], theirs: Sequence[float], problems: Sequence[str]) -> float:
    """Of the mean difference under sign flips of whole problems; 1 where nothing differs."""
    gaps: dict[str, list[float]] = {}
    for mine, other, problem in zip(ours, theirs, problems, strict=True):
        gaps.setdefault(problem, []).append(mine - other)
    means = np.array([np.mean(gaps[problem]) for problem in sorted(gaps)])
    means = means[means != 0]  # the sign of nothing flips nothing
    if len(means) < 2:  # of one problem both signs differ as much
        return 1.0
    found = permutation_test(
        (means,), np.mean, permutation_type="samples", vectorized=True, n_resamples=N_FLIPS,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's method, in the same order."""
    order, corrected, highest = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected
