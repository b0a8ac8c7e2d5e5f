"""Whether two sets of rows rank agents alike: does a small world predict a real LLM?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kv_gym.agents import known_agents
from kv_gym.bench.intervals import Interval, drawn_means, interval_of
from kv_gym.bench.rows import EpisodeRow
from kv_gym.engine.measures import MEASURES
from kv_gym.errors import ConfigError, unknown_name

ACCURACY = "accuracy"
FEWEST = 3
"""Agents without which a ranking says nothing."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """How agents do on one set of rows at one budget.

    Attributes:
        budget: Slots.
        agents: Their names, in the order of `values`.
        values: Higher is better, [A].
        draws: The same of bootstrap samples over problems, which all agents share, [A, draws].
        n_problems: Problems that all of them have played.
    """

    budget: int
    agents: tuple[str, ...]
    values: Floats
    draws: Floats
    n_problems: int


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between two rankings of the same agents.

    Attributes:
        one, other: The rankings.
        tau: 1: the same order. 0: none of the other's. -1: the opposite. Its interval draws the problems of both anew.
    """

    one: Ranked
    other: Ranked
    tau: Interval


def measures() -> list[str]:
    """What agents can be ranked by."""
    return [ACCURACY, *(measure.key for measure in MEASURES)]


def rules(one: Sequence[EpisodeRow], other: Sequence[EpisodeRow], chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """The agents that are compared: those chosen, else all in both sets that are ranked and were not trained.

    Raises:
        UnknownNameError: A chosen one is not in both.
        ConfigError: They are fewer than three.
    """
    trained = {name for name, kind in known_agents().items() if hasattr(kind, "about")}
    both = {row.agent for row in one} & {row.agent for row in other}
    for name in chosen:
        if name not in both:
            raise unknown_name("agent of both sets", name, both)
    ranked = {row.agent for row in one if row.evicts and not row.uses_hindsight}
    names = chosen or [name for name in both & ranked if name.partition("[")[0] not in trained]
    if len(names) < FEWEST:
        raise ConfigError(
            f"{len(names)} agents ({', '.join(sorted(names)) or 'none'}) are in both sets; a ranking needs {FEWEST}. "
            "Play more agents, or name them with --agent."
        )
    return tuple(sorted(names))


def rank(rows: Sequence[EpisodeRow], agents: Sequence[str], budget: int, by: str) -> Ranked | None:
    """How agents do at a budget; None where one of them did not play there.

    Args:
        rows: That belong together.
        agents: Names.
        budget: Slots.
        by: `accuracy` (in generate mode), or a measure of replay, of which less is better.

    Raises:
        UnknownNameError: There is no such measure.
    """
    if by not in measures():
        raise unknown_name("measure", by, measures())
    measure = next((measure for measure in MEASURES if measure.key == by), None)
    names = [ACCURACY] if measure is None else list(measure.columns)
    found: dict[str, dict[tuple[str, int], list[float]]] = {agent: {} for agent in agents}
    for row in rows:
        if row.agent in found and row.budget == budget and (row.mode == "generate") == (measure is None):
            values = [row.correct or 0.0 if name == ACCURACY else row.measured(name) for name in names]
            if None not in values:
                found[row.agent][row.problem, row.seed] = [value for value in values if value is not None]
    episodes = sorted(set.intersection(*(set(mine) for mine in found.values())))
    if not episodes:
        return None
    problems = [problem for problem, _ in episodes]
    columns = [[found[agent][episode][i] for episode in episodes] for i in range(len(names)) for agent in agents]
    value, draws = drawn_means(columns, problems)
    n = len(agents)
    if measure is not None and measure.full is not None:  # a ratio of two means
        value, draws = value[:n] / value[n:], draws[:n] / draws[n:]
    sign = 1.0 if measure is None else -1.0
    return Ranked(budget, tuple(agents), sign * value, sign * draws, len(set(problems)))


def agree(one: Ranked, other: Ranked) -> Agreement:
    """Compare two rankings of the same agents."""
    value = float(tau_b(one.values[:, None], other.values[:, None])[0])
    shuffled = other.draws[:, np.random.default_rng(0).permutation(other.draws.shape[1])]  # independent of the first
    return Agreement(one, other, interval_of(value, tau_b(one.draws, shuffled)))


def tau_b(one: Floats, other: Floats) -> Floats:
    """Kendall's tau-b of each column of two tables [A, K], [K]; 0 where one side ties everything."""
    first, second = np.triu_indices(len(one), 1)
    ours, theirs = np.sign(one[first] - one[second]), np.sign(other[first] - other[second])  # [pairs, K]
    untied = np.sqrt(np.abs(ours).sum(0) * np.abs(theirs).sum(0))
    return np.asarray((ours * theirs).sum(0) / np.where(untied == 0, 1, untied))
