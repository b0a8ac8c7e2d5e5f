"""Counting what went and what it would have got, by layer, KV head, token type and age."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from kv_gym.show.explain.token_types import TokenType


class Quantity(IntEnum):
    """What is summed up over the decisions of an episode.

    Attributes:
        OFFERED: Slots that could have gone: all that are not protected.
        EVICTED: Slots that went.
        NEEDED: Of these, slots that Golden Eviction would have kept at the same decision.
        LOST: Golden attention of the slots that went. Of a slot that is the share of a query's attention that the full
            cache pays it later: mean over a block of `evict_every` queries and over the GQA group, of the block that
            pays most (`kv_gym.engine.slots.Hindsight.future`). 1 is one query that looks at nothing else.
        GOLDEN: The same of the slots that Golden Eviction would have evicted from the same cache: nobody loses less.
    """

    OFFERED = 0
    EVICTED = 1
    NEEDED = 2
    LOST = 3
    GOLDEN = 4


YOUNGEST = 16
"""Tokens: what is younger is one group, and each group behind it is twice as wide."""
N_AGES = 12


def age_group(age: Tensor) -> Tensor:
    """Group of each age in tokens (the newest slot has age 0): 0 to 15, 16 to 31, 32 to 63, ..."""
    return (age.clamp_min(1).double().log2().floor().long() - 3).clamp(0, N_AGES - 1)


def age_label(group: int) -> str:
    """Ages of a group, tokens."""
    if group == 0:
        return f"0 to {YOUNGEST - 1}"
    first = YOUNGEST * 2 ** (group - 1)
    return f"{first} or more" if group == N_AGES - 1 else f"{first} to {2 * first - 1}"


def tally(gone: Tensor, golden_gone: Tensor, protected: Tensor, future: Tensor, types: Tensor, age: Tensor) -> Tensor:
    """Sum up one decision of one episode.

    Args:
        gone: Slots that went, [L, H_kv, S] bool.
        golden_gone: Slots that Golden Eviction would have evicted, [L, H_kv, S] bool.
        protected: Slots that could not go, [L, H_kv, S] bool.
        future: Golden attention of each slot, [L, H_kv, S].
        types: `TokenType` of each slot's token, [L, H_kv, S] long.
        age: Tokens since it was written, [L, H_kv, S].

    Returns:
        [quantities, L, H_kv, types, ages] float64.
    """
    (n_layers, n_heads, _), n_types = gone.shape, len(TokenType)
    head = torch.arange(n_layers * n_heads, device=gone.device).view(n_layers, n_heads, 1)
    group = ((head * n_types + types) * N_AGES + age_group(age)).flatten()
    weights = {
        Quantity.OFFERED: ~protected,
        Quantity.EVICTED: gone,
        Quantity.NEEDED: gone & ~golden_gone,
        Quantity.LOST: future * gone,
        Quantity.GOLDEN: future * golden_gone,
    }
    size = n_layers * n_heads * n_types * N_AGES
    sums = [torch.bincount(group, weights[one].flatten().double(), minlength=size) for one in Quantity]
    return torch.stack(sums).view(len(Quantity), n_layers, n_heads, n_types, N_AGES).cpu()


@dataclass
class EpisodeTally:
    """One episode of one agent.

    Attributes:
        problem, family, seed: Which.
        sums: [quantities, L, H_kv, types, ages] float64, over its decisions.
        decisions: Evictions.
    """

    problem: str
    family: str
    seed: int
    sums: Tensor
    decisions: int = 0

    def add(self, decision: Tensor) -> None:
        """Add what `tally` says of a decision."""
        self.sums += decision
        self.decisions += 1
