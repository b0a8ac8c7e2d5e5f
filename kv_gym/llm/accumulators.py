"""The accumulators of attention that a cache can keep of each slot. An agent names those that it reads (`needs`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kv_gym.errors import unknown_name


@dataclass(frozen=True)
class Accumulator:
    """One number of a slot that attention moves.

    Attributes:
        fill: Of a slot that nobody has attended to yet.
        grouped: Kept for every query head of the group, float32; else for a KV head, int64.
        with_others: Accumulators that it is made with.
    """

    fill: int = 0
    grouped: bool = False
    with_others: tuple[str, ...] = ()


ACCUMULATORS = {
    "total_attention": Accumulator(grouped=True),
    "decayed_attention": Accumulator(grouped=True),
    "last_attended": Accumulator(fill=-1),
    "longest_gap": Accumulator(with_others=("last_attended",)),
}
"""`total_attention`: sum of the attention of every query since the slot was written, [..., H_kv, group, S].
`decayed_attention`: the same with weight DECAY ** (queries since), of `statistics.py`. `last_attended`: position
of the last query that paid the slot more than 1 / (slots it saw), the maximum over the group; -1 before the first,
[..., H_kv, S]. `longest_gap`: longest distance between two such queries, 0 before the second."""


def with_needed(names: Collection[str]) -> tuple[str, ...]:
    """These accumulators and those that they are made with, in one order.

    Raises:
        UnknownNameError: There is no such accumulator.
    """
    for name in names:
        if name not in ACCUMULATORS:
            raise unknown_name("accumulator", name, ACCUMULATORS)
    needed = {other for name in names for other in (name, *ACCUMULATORS[name].with_others)}
    return tuple(name for name in ACCUMULATORS if name in needed)
