"""Whether two sets of rows rank agents alike: does a small world predict a real LLM?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kv_gym.agents import known_agents
from kv_gym.bench.intervals import Interval, drawn_means, interval_of
from kv_gym.bench.rows import EpisodeRow, RowKey
from kv_gym.bench.token_losses import TOKEN_MEASURES, TokenSums
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
        by: What they are ranked by.
        budget: Slots.
        agents: Their names, in the order of `values`.
        values: Higher is better, [A]: a measure of which less is better has the other sign.
        draws: The same of bootstrap samples over problems, which all agents share, [A, draws].
        n_problems: Problems that all of them have played.
    """

    by: str
    budget: int
    agents: tuple[str, ...]
    values: Floats
    draws: Floats
    n_problems: int

    @property
    def numbers(self) -> list[float]:
        """The values as reports have them."""
        return (_sign(self.by) * self.values).tolist()

    @property
    def intervals(self) -> list[Interval]:
        """The same with their 95% intervals."""
        sign = _sign(self.by)
        return [interval_of(number, sign * draws) for number, draws in zip(self.numbers, self.draws, strict=True)]


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
    return [ACCURACY, *(measure.key for measure in MEASURES), *(measure.key for measure in TOKEN_MEASURES)]


def _sign(by: str) -> float:
    return 1.0 if by == ACCURACY else -1.0


def judges(by: Collection[str]) -> set[str]:
    """Agents that define one of these measures, so that their own number says nothing."""
    return {name for measure in TOKEN_MEASURES if measure.key in by for name in measure.defined_by}


def rules(
    one: Sequence[EpisodeRow], other: Sequence[EpisodeRow], chosen: Sequence[str] = (), without: Collection[str] = ()
) -> tuple[str, ...]:
    """The agents that are compared: those chosen, else all in both sets that are ranked and were not trained.

    Args:
        one: A set of rows.
        other: Another.
        chosen: Names.
        without: Names that are left out unless they are chosen.

    Raises:
        UnknownNameError: A chosen one is not in both.
        ConfigError: They are fewer than three.
    """
    trained = {name for name, kind in known_agents().items() if hasattr(kind, "about")}
    both = {row.agent for row in one} & {row.agent for row in other}
    for name in chosen:
        if name not in both:
            raise unknown_name("agent of both sets", name, both)
    ranked = {row.agent for row in one if row.evicts and not row.uses_hindsight} - set(without)
    names = chosen or [name for name in both & ranked if name.partition("[")[0] not in trained]
    if len(names) < FEWEST:
        raise ConfigError(
            f"{len(names)} agents ({', '.join(sorted(names)) or 'none'}) are in both sets; a ranking needs {FEWEST}. "
            "Play more agents, or name them with --agent."
        )
    return tuple(sorted(names))


def rank(
    rows: Sequence[EpisodeRow],
    agents: Sequence[str],
    budget: int,
    by: str,
    tokens: Mapping[RowKey, TokenSums] | None = None,
) -> Ranked | None:
    """How agents do at a budget; None where one of them did not play there, or there is nothing to measure.

    Args:
        rows: That belong together.
        agents: Names.
        budget: Slots.
        by: `accuracy` (in generate mode), or a measure of replay, of which less is better.
        tokens: Sums of the rows, for a measure of tokens.

    Raises:
        UnknownNameError: There is no such measure.
    """
    if by not in measures():
        raise unknown_name("measure", by, measures())
    found: dict[str, dict[tuple[str, int], tuple[float, ...]]] = {agent: {} for agent in agents}
    for row in rows:
        counts = row.agent in found and row.budget == budget and (row.mode == "generate") == (by == ACCURACY)
        if counts and (values := _values(row, by, tokens or {})):
            found[row.agent][row.problem, row.seed] = values
    episodes = sorted(set.intersection(*(set(mine) for mine in found.values())))
    if not episodes:
        return None
    problems = [problem for problem, _ in episodes]
    n, parts = len(agents), len(found[agents[0]][episodes[0]])
    columns = [[found[agent][episode][i] for episode in episodes] for i in range(parts) for agent in agents]
    value, draws = drawn_means(columns, problems)
    if parts == 2:  # a ratio of two means
        if not value[n:].all():
            return None
        draws = draws[:, (draws[n:] != 0).all(0)]  # a sample may have no token that counts
        value, draws = value[:n] / value[n:], draws[:n] / draws[n:]
    return Ranked(by, budget, tuple(agents), _sign(by) * value, _sign(by) * draws, len(set(problems)))


def _values(row: EpisodeRow, by: str, tokens: Mapping[RowKey, TokenSums]) -> tuple[float, ...]:
    """What an episode adds: a value, or both parts of a ratio; () where it was not measured."""
    if by == ACCURACY:
        return (row.correct or 0.0,)
    measure = next((measure for measure in MEASURES if measure.key == by), None)
    if measure is None:
        return tokens[row.key].sums[by] if row.key in tokens else ()
    values = [row.measured(name) for name in measure.columns]
    return () if None in values else tuple(value for value in values if value is not None)


def agree(one: Ranked, other: Ranked) -> Agreement:
    """Compare two rankings of the same agents."""
    value = float(tau_b(one.values[:, None], other.values[:, None])[0])
    shuffled = other.draws[:, np.random.default_rng(0).permutation(other.draws.shape[1])]  # independent of the first
    n = min(one.draws.shape[1], shuffled.shape[1])
    return Agreement(one, other, interval_of(value, tau_b(one.draws[:, :n], shuffled[:, :n])))


def tau_b(one: Floats, other: Floats) -> Floats:
    """Kendall's tau-b of each column of two tables [A, K], [K]; 0 where one side ties everything."""
    first, second = np.triu_indices(len(one), 1)
    ours, theirs = np.sign(one[first] - one[second]), np.sign(other[first] - other[second])  # [pairs, K]
    untied = np.sqrt(np.abs(ours).sum(0) * np.abs(theirs).sum(0))
    return np.asarray((ours * theirs).sum(0) / np.where(untied == 0, 1, untied))
