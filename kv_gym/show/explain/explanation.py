"""Tallies -> what an agent evicts and would have needed, group by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kv_gym.bench.intervals import Interval, mean_interval, ratio_interval
from kv_gym.show.explain.duel import Duel
from kv_gym.show.explain.tally import EpisodeTally, Quantity, age_label
from kv_gym.show.explain.token_types import TokenType

Floats = NDArray[np.float64]
MOST_HEADS = 32
"""Heads that a table lists; of more it lists layers, and the picture maps them all."""


@dataclass(frozen=True)
class Measures:
    """One agent on one group of slots. Shares are 0 to 1; of golden attention 1 is that of a whole query (`Quantity`).

    Attributes:
        evicted: Share of all evicted slots that are of this group.
        rate: Evicted slots over slots that could have gone, both of this group and summed over decisions: a slot that
            stays is offered again at the next one. None where none could go.
        needed: Share of this group's evicted slots that Golden Eviction would have kept. None where none went.
        lost_per_slot: Golden attention that an evicted slot would have got, mean over this group's evicted slots.
        lost: The same summed over the group, per decision and KV head. Groups of token types, or of ages, add up to the
            whole; those of families, layers and heads are means over their own decisions and heads.
        golden: What Golden Eviction would have lost of this group, per decision and KV head, with the cache that the
            agent left at each decision. Over all slots nobody loses less; in a group it may, where it chooses others.
    """

    evicted: float
    rate: float | None
    needed: float | None
    lost_per_slot: Interval | None
    lost: Interval | None
    golden: float


@dataclass(frozen=True)
class Group:
    """Some slots, and how each agent treats them.

    Attributes:
        label: What they have in common.
        of: By agent.
    """

    label: str
    of: dict[str, Measures]


@dataclass(frozen=True)
class Cut:
    """All slots, cut into groups in one way.

    Attributes:
        key: `all`, `type`, `age`, `family`, `layer` or `head`.
        title: For people.
        groups: Those in which an agent evicted something.
    """

    key: str
    title: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Explanation:
    """What is known of an agent, or of two on the same texts.

    Attributes:
        agents: Labels of those that evict; the explained one first.
        episodes: Problem, family and seed of what was replayed.
        decisions: Evictions of each agent.
        duel: The problems won and lost, of all rows; None without a second agent.
    """

    env_id: str
    model: str
    split: str
    budget: int
    evict_every: int
    agents: tuple[str, ...]
    episodes: tuple[tuple[str, str, int], ...]
    decisions: int
    n_layers: int
    n_kv_heads: int
    cuts: tuple[Cut, ...]
    duel: Duel | None

    @property
    def crowded(self) -> bool:
        """Whether there are too many heads for a table."""
        return self.n_layers * self.n_kv_heads > MOST_HEADS

    def cut(self, key: str) -> Cut:
        """One of the cuts."""
        return next(cut for cut in self.cuts if cut.key == key)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)


def cuts_of(tallies: dict[str, list[EpisodeTally]]) -> tuple[Cut, ...]:
    """Cut the slots of episodes in every way.

    Args:
        tallies: Of each agent, of the same episodes.
    """
    first = next(iter(tallies.values()))
    _, n_layers, n_heads, _, _ = first[0].sums.shape
    types, ages = [one.name.lower() for one in TokenType], [age_label(i) for i in range(first[0].sums.shape[-1])]
    layers = [f"layer {i}" for i in range(n_layers)]
    heads = [f"layer {i}, KV head {j}" for i in range(n_layers) for j in range(n_heads)]
    whole = n_layers * n_heads
    return (
        _cut("all", "All slots", ["all"], tallies, lambda sums: sums.sum((1, 2, 3, 4))[:, None], whole),
        _cut("type", "Token", types, tallies, lambda sums: sums.sum((1, 2, 4)), whole),
        _cut("age", "Age when it went, tokens", ages, tallies, lambda sums: sums.sum((1, 2, 3)), whole),
        _families(tallies, whole),
        _cut("layer", "Layer", layers, tallies, lambda sums: sums.sum((2, 3, 4)), n_heads),
        _cut("head", "Layer and KV head", heads, tallies, lambda sums: sums.sum((3, 4)).reshape(len(sums), -1), 1),
    )


def _families(tallies: dict[str, list[EpisodeTally]], whole: int) -> Cut:
    """A group for each family of problems: all slots of its episodes."""
    groups: list[Group] = []
    for family in sorted({one.family for one in next(iter(tallies.values()))}):
        mine = {agent: [one for one in every if one.family == family] for agent, every in tallies.items()}
        cut = _cut("family", "", [family], mine, lambda sums: sums.sum((1, 2, 3, 4))[:, None], whole, tallies)
        groups += cut.groups
    return Cut("family", "Family of problems", tuple(groups))


def _cut(
    key: str, title: str, names: Sequence[str], tallies: dict[str, list[EpisodeTally]],
    grouped: Callable[[Floats], Floats], heads: int, whole: dict[str, list[EpisodeTally]] | None = None,
) -> Cut:  # fmt: skip
    """Sum up by group.

    Args:
        key: Of the cut.
        title: Its title.
        names: Of the groups, G.
        tallies: Of each agent.
        grouped: Sums of an episode, [quantities, L, H_kv, types, ages], to [quantities, G].
        heads: KV heads that a group has at a decision.
        whole: What shares of evicted slots are of; by default the same.
    """
    by_agent = {agent: np.stack([grouped(one.sums.numpy()) for one in mine]) for agent, mine in tallies.items()}
    groups = []
    for i, name in enumerate(names):
        if not any(sums[:, Quantity.EVICTED, i].any() for sums in by_agent.values()):
            continue
        of = {}
        for agent, mine in tallies.items():
            total = sum(float(one.sums[Quantity.EVICTED].sum()) for one in (whole or tallies)[agent])
            of[agent] = measures_of(by_agent[agent][:, :, i], mine, total, heads)
        groups.append(Group(name, of))
    return Cut(key, title, tuple(groups))


def measures_of(sums: Floats, episodes: Sequence[EpisodeTally], total: float, heads: int) -> Measures:
    """Measure one group.

    Args:
        sums: Of each episode, [E, quantities].
        episodes: Theirs.
        total: All slots that the agent evicted.
        heads: KV heads that the group has at a decision.
    """
    offered, evicted, needed, _, _ = sums.sum(0)
    problems = [one.problem for one in episodes]
    lost, went = sums[:, Quantity.LOST], sums[:, Quantity.EVICTED]
    golden = mean_interval(*_per_decision(sums[:, Quantity.GOLDEN], episodes, heads))
    return Measures(
        evicted=float(evicted / total) if total else 0.0,
        rate=float(evicted / offered) if offered else None,
        needed=float(needed / evicted) if evicted else None,
        lost_per_slot=ratio_interval(lost.tolist(), went.tolist(), problems),
        lost=mean_interval(*_per_decision(lost, episodes, heads)),
        golden=golden.value if golden else 0.0,
    )


def _per_decision(sums: Floats, episodes: Sequence[EpisodeTally], heads: int) -> tuple[list[float], list[str]]:
    """What an episode's sum [E] is for each decision and head, and its problem; without episodes that had none."""
    played = [(float(total), one) for total, one in zip(sums, episodes, strict=True) if one.decisions]
    return [total / (one.decisions * heads) for total, one in played], [one.problem for _, one in played]
