"""What a slot's attention was since it was written: running sums and gaps, gathered with the cache at each eviction.

The statistics of a cache are a dict: name of an accumulator (`kv_gym.llm.accumulators`) -> its tensor.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from kv_gym.llm.accumulators import ACCUMULATORS, with_needed

DECAY = 0.9 ** (1 / 16)
"""Per-query decay of the decayed sum: 0.9 every 16 queries. Per query, not per chunk, so that `evict_every` does not
change what the number means (ForesightKV decays per chunk of 256)."""


Statistics = dict[str, Tensor]


def new_statistics(
    names: Collection[str], leading: tuple[int, ...], n_kv_heads: int, group: int, slots: int, device: torch.device
) -> Statistics:
    """Nothing attended yet; the leading axes are the caller's, for instance [L, N]."""
    found = {}
    for name in with_needed(names):
        kind = ACCUMULATORS[name]
        shape = (*leading, n_kv_heads, group, slots) if kind.grouped else (*leading, n_kv_heads, slots)
        dtype = torch.float32 if kind.grouped else torch.long
        found[name] = torch.full(shape, kind.fill, dtype=dtype, device=device)
    return found


def accumulate(stats: Statistics, rows: Tensor, query_positions: Tensor, n_seen: Tensor) -> None:
    """Add a chunk of attention rows, in time order, in place.

    Args:
        stats: What was accumulated so far, over the same slots as `rows`.
        rows: Softmaxed attention, zero where a query does not see a slot, [..., H_kv, group, T, S].
        query_positions: Positions of the queries, broadcastable to [..., 1, T, 1] against [..., H_kv, T, S].
        n_seen: Slots that each query sees, [T].
    """
    length = rows.shape[-2]
    if "total_attention" in stats:
        stats["total_attention"] += rows.sum(-2)
    if "decayed_attention" in stats:
        weight = DECAY ** torch.arange(length - 1, -1, -1, device=rows.device, dtype=rows.dtype)
        stats["decayed_attention"].mul_(DECAY**length).add_((weight @ rows).to(torch.float32))
    if "last_attended" in stats:
        hits = rows.amax(-3) * n_seen[:, None] > 1
        if "longest_gap" in stats:
            last, gap = recurrence(stats["last_attended"], stats["longest_gap"], hits, query_positions)
            stats["longest_gap"].copy_(gap)
        else:
            latest = (hits * (query_positions + 1).float()).amax(-2) - 1  # exact below 2**24
            last = torch.maximum(stats["last_attended"], latest.long())
        stats["last_attended"].copy_(last)


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
    after = (query_positions + 1).float()  # exact below 2**24, and several times as fast as integers
    when = hits * after  # 0: no hit
    latest = _running_maximum(torch.cat([(last + 1).float()[..., None, :], when], -2))  # [..., H_kv, T + 1, S]
    before = latest[..., :-1, :]
    longest = ((when - before) * (before > 0)).amax(-2)  # where there is no hit, none above 0
    return (latest[..., -1, :] - 1).to(last.dtype), torch.maximum(gap, longest.to(gap.dtype))


def _running_maximum(values: Tensor) -> Tensor:
    """Maximum up to each row of [..., T, S]; by doubling, as `cummax` also makes an index of eight bytes a number."""
    step = 1
    while step < values.shape[-2]:
        later = torch.maximum(values[..., step:, :], values[..., :-step, :])
        values = torch.cat([values[..., :step, :], later], -2)
        step *= 2
    return values
