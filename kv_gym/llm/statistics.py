"""What a slot's attention was since it was written: running sums and gaps, gathered with the cache at each eviction."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

DECAY = 0.9 ** (1 / 16)
"""Per-query decay of the decayed sum: 0.9 every 16 queries. Per query, not per chunk, so that `evict_every` does not
change what the number means (ForesightKV decays per chunk of 256)."""


@dataclass
class SlotStatistics:
    """Accumulators of each slot. The leading axes are those of the caller, for instance [L, N].

    Attributes:
        total: Sum of the attention of every query since the slot was written, [..., H_kv, group, S].
        decayed: The same with weight DECAY ** (queries since), [..., H_kv, group, S].
        last_attended: Position of the last query that paid the slot more than 1 / (slots it saw), the maximum over the
            group; -1 before the first, [..., H_kv, S].
        longest_gap: Longest distance between two such queries, 0 before the second, [..., H_kv, S].
    """

    total: Tensor
    decayed: Tensor
    last_attended: Tensor
    longest_gap: Tensor

    @classmethod
    def zeros(
        cls, leading: tuple[int, ...], n_kv_heads: int, group: int, slots: int, device: torch.device
    ) -> SlotStatistics:
        """Nothing attended yet."""
        per_query_head = torch.zeros(*leading, n_kv_heads, group, slots, device=device)
        per_kv_head = torch.zeros(*leading, n_kv_heads, slots, dtype=torch.long, device=device)
        return cls(per_query_head, per_query_head.clone(), per_kv_head - 1, per_kv_head)

    def tensors(self) -> list[Tensor]:
        """The four tensors, in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    def at(self, index: object) -> SlotStatistics:
        """Index the leading axes of every tensor."""
        return SlotStatistics(*(tensor[index] for tensor in self.tensors()))  # type: ignore[index]


def accumulate(stats: SlotStatistics, rows: Tensor, query_positions: Tensor) -> SlotStatistics:
    """Add a chunk of attention rows, in time order.

    Args:
        stats: What was accumulated so far, over the same slots as `rows`.
        rows: Softmaxed attention, zero where a query does not see a slot, [..., H_kv, group, T, S].
        query_positions: Positions of the queries, broadcastable to [..., 1, T, 1] against [..., H_kv, T, S].

    Returns:
        New statistics.
    """
    length = rows.shape[-2]
    weight = DECAY ** torch.arange(length - 1, -1, -1, device=rows.device, dtype=rows.dtype)
    total = stats.total + rows.sum(-2)
    decayed = stats.decayed * DECAY**length + torch.einsum("...ts,t->...s", rows, weight)
    seen = (rows > 0).any(-3).sum(-1, keepdim=True)  # slots each query saw, [..., H_kv, T, 1]
    last, gap = recurrence(stats.last_attended, stats.longest_gap, rows.amax(-3) * seen > 1, query_positions)
    return SlotStatistics(total, decayed, last, gap)


def recurrence(last: Tensor, gap: Tensor, hits: Tensor, query_positions: Tensor) -> tuple[Tensor, Tensor]:
    """Bring the last hit of each slot and the longest gap between two hits up to date.

    Args:
        last: Position of the last query that hit each slot, -1 before the first, [..., H_kv, S].
        gap: Longest distance between two hits, 0 before the second, [..., H_kv, S].
        hits: Which slots each query of a chunk hits, in time order, [..., H_kv, T, S] bool.
        query_positions: Positions of the queries, broadcastable to `hits`.

    Returns:
        (last, gap) after the chunk.
    """
    when = torch.where(hits, query_positions, -1)
    latest = torch.cat([last[..., None, :], when], -2).cummax(-2).values  # [..., H_kv, T + 1, S]
    before = latest[..., :-1, :]
    longest = torch.where(hits & (before >= 0), query_positions - before, 0).amax(-2)
    return latest[..., -1, :], torch.maximum(gap, longest)
