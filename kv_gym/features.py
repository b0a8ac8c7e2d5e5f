"""Slots in numbers: what an observation and a learned scorer see.

Columns do not depend on the model's sizes: query heads are reduced over their GQA group to mean and max, attention is
counted in multiples of the average, and everything lies within [-10, 10].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kv_gym.llm.statistics import DECAY
from kv_gym.slots import SlotView

LIMIT = 10.0


@dataclass(frozen=True)
class Feature:
    """One column, or two (mean and max over the GQA group).

    Attributes:
        name: Column name; grouped ones get `_mean` and `_max`.
        unit: Of the raw quantity.
        description: What it says.
        compute: SlotView -> [N, L, H_kv, S], or [N, L, H_kv, group, S] when `grouped`.
        grouped: Whether it is one number per query head.
    """

    name: str
    unit: str
    description: str
    compute: Callable[[SlotView], Tensor]
    grouped: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns in an observation."""
        return (f"{self.name}_mean", f"{self.name}_max") if self.grouped else (self.name,)


def multiples_of_average(attention: Tensor) -> Tensor:
    """log(1 + attention * S): 0 is none, 0.7 is the average slot's share."""
    return torch.log1p(attention * attention.shape[-1])


def newest(slots: SlotView, n: int) -> Tensor:
    """Mean attention of the newest n queries, [N, L, H_kv, group, S]."""
    return slots.attention(32)[..., -min(n, slots.attention(32).shape[-2]) :, :].mean(-2)


def per_opportunity(total: Tensor, slots: SlotView) -> Tensor:
    """Divide a sum over queries by the number of queries since each slot was written."""
    return total / (slots.age + 1).clamp_min(1)[..., None, :]  # a row without an episode has age -1


def decayed_per_opportunity(slots: SlotView) -> Tensor:
    """Decayed sum divided by the same sum of ones."""
    weight = (1 - DECAY ** (slots.age + 1).clamp_min(1)) / (1 - DECAY)
    return slots.decayed_attention / weight[..., None, :]


def since_attended(slots: SlotView) -> Tensor:
    """Tokens since the last query that cared; since the slot was written when none did."""
    last = torch.maximum(slots.last_attended, slots.positions)
    return torch.log1p((slots.text_length[:, None, None, None] - 1 - last).float())


def relative_norm(vectors: Tensor) -> Tensor:
    """Log of the norm over the mean norm of the same head's slots, [N, L, H_kv, S]."""
    norm = vectors.float().norm(dim=-1).clamp_min(1e-6)
    return (norm / norm.mean(-1, keepdim=True)).log()


def newer_twin(slots: SlotView) -> Tensor:
    """Highest cosine between a key and any newer key of its head; 0 for the newest slot, [N, L, H_kv, S]."""
    unit = F.normalize(slots.keys.float(), dim=-1)
    older = torch.ones(unit.shape[-2], unit.shape[-2], dtype=torch.bool, device=unit.device).tril()
    best = (unit @ unit.transpose(-1, -2)).masked_fill_(older, -1).amax(-1)
    best[..., -1] = 0
    return best


FEATURES: tuple[Feature, ...] = (
    Feature("attention_peak", "multiples of average, log1p", "highest attention of the last chunk's queries",
            lambda s: multiples_of_average(s.attention().amax(-2)), grouped=True),
    Feature("attention_chunk", "multiples of average, log1p", "mean attention of the last chunk's queries",
            lambda s: multiples_of_average(s.attention().mean(-2)), grouped=True),
    Feature("attention_last", "multiples of average, log1p", "attention of the last query",
            lambda s: multiples_of_average(newest(s, 1)), grouped=True),
    Feature("attention_last8", "multiples of average, log1p", "mean attention of the last 8 queries",
            lambda s: multiples_of_average(newest(s, 8)), grouped=True),
    Feature("attention_last16", "multiples of average, log1p", "mean attention of the last 16 queries",
            lambda s: multiples_of_average(newest(s, 16)), grouped=True),
    Feature("attention_last32", "multiples of average, log1p", "mean attention of the last 32 queries, over live slots",
            lambda s: multiples_of_average(newest(s, 32)), grouped=True),
    Feature("attention_total", "multiples of average, log1p", "attention since it was written, per query",
            lambda s: multiples_of_average(per_opportunity(s.total_attention, s)), grouped=True),
    Feature("attention_decayed", "multiples of average, log1p", "the same, weighted 0.9 per 16 queries",
            lambda s: multiples_of_average(decayed_per_opportunity(s)), grouped=True),
    Feature("since_attended", "tokens, log1p", "since a query last paid more than average", since_attended),
    Feature("longest_gap", "tokens, log1p", "longest gap between two such queries",
            lambda s: torch.log1p(s.longest_gap.float())),
    Feature("age", "tokens, log1p", "since the slot was written", lambda s: torch.log1p(s.age.float())),
    Feature("position", "share of the text", "place in the text",
            lambda s: s.positions / s.text_length[:, None, None, None]),
    Feature("in_prompt", "0 or 1", "belongs to the prompt", lambda s: s.in_prompt.float()),
    Feature("key_norm", "log ratio", "norm of the key over the head's mean", lambda s: relative_norm(s.keys)),
    Feature("value_norm", "log ratio", "norm of the value over the head's mean", lambda s: relative_norm(s.values)),
    Feature("newer_twin", "cosine", "highest similarity to a newer key", newer_twin),
    Feature("surprisal", "nats, log1p", "how unexpected the token was", lambda s: torch.log1p(s.surprisal)),
    Feature("entropy", "nats, log1p", "how open the prediction of the token was", lambda s: torch.log1p(s.entropy)),
)  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(column for feature in FEATURES for column in feature.columns)
CONTEXT: tuple[tuple[str, str], ...] = (
    ("progress", "generated tokens over max_new_tokens"),
    ("budget", "log10 of the budget, slots"),
    ("evict_every", "log10 of evict_every, slots"),
    ("keep_ratio", "budget over tokens read"),
    ("prompt_share", "prompt tokens over tokens read"),
    ("surprisal", "mean of the last evict_every tokens, nats, log1p"),
    ("entropy", "mean of the last evict_every tokens, nats, log1p"),
)


@torch.no_grad()
def slot_features(slots: SlotView) -> Tensor:
    """Return all columns of `FEATURES`, [N, L, H_kv, S, F] float32, within [-10, 10]."""
    return torch.cat([all_columns(layer) for layer in slots.layers()], 1)


def all_columns(slots: SlotView) -> Tensor:
    """The same, of all layers of a view at once."""
    slots.attention(32)  # more than a window's queries: what is asked for later are slices of it
    return feature_columns(slots, FEATURES)


def feature_columns(slots: SlotView, chosen: Sequence[Feature]) -> Tensor:
    """Return the columns of some features, as `slot_features` does."""
    columns: list[Tensor] = []
    for feature in chosen:
        values = feature.compute(slots)
        columns.extend((values.mean(-2), values.amax(-2)) if feature.grouped else (values,))
    return torch.stack(columns, -1).float().clamp(-LIMIT, LIMIT)


def context_features(slots: SlotView, max_new_tokens: int) -> Tensor:
    """Return the columns of `CONTEXT`, [N, C] float32."""
    length, prompt = slots.text_length.float(), slots.prompt_length.float()
    ones = torch.ones_like(length)
    columns = [
        (length - prompt) / max_new_tokens,
        ones * torch.log10(ones * slots.budget),
        ones * torch.log10(ones * slots.evict_every),
        slots.budget / length,
        prompt / length,
        torch.log1p(slots.recent("surprisal", slots.evict_every)),
        torch.log1p(slots.recent("entropy", slots.evict_every)),
    ]
    return torch.stack(columns, -1).float().clamp(-LIMIT, LIMIT)
