"""Slots in numbers: what an observation and a learned scorer see.

Their number does not depend on the LLM. What is measured for each query head gives two columns, the mean and the
maximum over the query heads that share a KV head. Attention is the share that a query pays to the slot, out of those
that are left; in multiples of the average, log(1 + share * S), it is 0 for a slot that gets none and 0.69 for one that
gets as much as the average slot. log1p is log(1 + x). All columns are cut off at -10 and 10. The source of a column is
what it is measured on and, behind the colon, a published rule that evicts by it; those rules are agents (`kv-gym
agents`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kv_gym.engine.slots import SlotView
from kv_gym.llm.statistics import DECAY

LIMIT = 10.0


@dataclass(frozen=True)
class Feature:
    """One column, or two (mean and max over the GQA group).

    Attributes:
        name: Column name; grouped ones get `_mean` and `_max`.
        unit: Of the raw quantity, and how it is scaled: log1p is log(1 + x), so that large values stay comparable.
        source: What it is measured on, and a published eviction rule that decides by it, if there is one.
        description: What it says.
        compute: SlotView -> [N, L, H_kv, S], or [N, L, H_kv, group, S] when `grouped`.
        grouped: Whether it is one number per query head.
        needs: Accumulators that it is made of.
        queries: Newest queries whose attention it reads, where those of the last window are not enough.
        version: Raise it when the same name comes to mean something else: trained scorers refuse what they do not know.
    """

    name: str
    unit: str
    source: str
    description: str
    compute: Callable[[SlotView], Tensor]
    grouped: bool = False
    needs: tuple[str, ...] = ()
    queries: int = 0
    version: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns in an observation."""
        return (f"{self.name}_mean", f"{self.name}_max") if self.grouped else (self.name,)


@dataclass(frozen=True)
class ContextFeature:
    """One number about the episode as a whole.

    Attributes:
        name: Column name.
        unit: Of the raw quantity, and how it is scaled.
        source: What it is measured on.
        description: What it says.
        compute: (SlotView, longest text behind the prompt) -> [N].
        version: As of a `Feature`.
    """

    name: str
    unit: str
    source: str
    description: str
    compute: Callable[[SlotView, int], Tensor]
    version: int = 1


def multiples_of_average(attention: Tensor) -> Tensor:
    """log(1 + attention * S): 0 is none, 0.7 is the average slot's share."""
    return torch.log1p(attention * attention.shape[-1])


def newest(slots: SlotView, n: int) -> Tensor:
    """Mean attention of the newest n queries, [N, L, H_kv, group, S]."""
    rows = slots.attention(MOST_QUERIES)[..., -n:, :]
    return rows[..., 0, :] if n == 1 else torch.full((n,), 1 / n, device=rows.device) @ rows


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


def heads_at_once(cosines: int, device: torch.device) -> int:
    """Heads to compare at once, of so many cosines each: what a processor's caches hold; on a GPU, 256 MB."""
    return max(1, (1 << 17 if device.type == "cpu" else 1 << 26) // cosines)


def newer_twin(slots: SlotView) -> Tensor:
    """Highest cosine between a key and any newer key of its head; 0 for the newest slot, [N, L, H_kv, S]."""
    unit = F.normalize(slots.keys.float(), dim=-1).flatten(0, 2)
    size = unit.shape[-2]
    older = torch.full((size, size), -3.0, device=unit.device).tril()  # below any cosine
    heads = unit.split(heads_at_once(size**2, unit.device))
    best = torch.cat([(head @ head.transpose(-1, -2)).add_(older).amax(-1) for head in heads])  # baddbmm is slower
    best[..., -1] = 0
    return best.view(slots.shape)


MULTIPLES = "multiples of average, log1p"
MOST_QUERIES = 32

FEATURES: tuple[Feature, ...] = (
    Feature("attention_peak", MULTIPLES, "attention: ForesightKV", "most that one query of the last window paid",
            lambda s: multiples_of_average(s.attention().amax(-2)), grouped=True),
    Feature("attention_chunk", MULTIPLES, "attention: ForesightKV", "mean over all queries of the last window",
            lambda s: multiples_of_average(s.attention().mean(-2)), grouped=True),
    Feature("attention_last", MULTIPLES, "attention: TOVA", "what the newest query paid",
            lambda s: multiples_of_average(newest(s, 1)), grouped=True, queries=MOST_QUERIES),
    Feature("attention_last8", MULTIPLES, "attention: SnapKV", "mean over the newest 8 queries",
            lambda s: multiples_of_average(newest(s, 8)), grouped=True, queries=MOST_QUERIES),
    Feature("attention_last16", MULTIPLES, "attention: G-KV", "mean over the newest 16 queries",
            lambda s: multiples_of_average(newest(s, 16)), grouped=True, queries=MOST_QUERIES),
    Feature("attention_last32", MULTIPLES, "attention: ForesightKV", "mean over the newest 32 queries",
            lambda s: multiples_of_average(newest(s, 32)), grouped=True, queries=MOST_QUERIES),
    Feature("attention_total", MULTIPLES, "attention: H2O", "mean over all queries since the slot was written",
            lambda s: multiples_of_average(per_opportunity(s.total_attention, s)), grouped=True,
            needs=("total_attention",)),
    Feature("attention_decayed", MULTIPLES, "attention: ForesightKV",
            "the same, where a query counts 0.9 times as much for every 16 queries that came after it",
            lambda s: multiples_of_average(decayed_per_opportunity(s)), grouped=True, needs=("decayed_attention",)),
    Feature("since_attended", "tokens, log1p", "attention: LazyEviction",
            "since a query last paid the slot more than the average slot; since it was written if none did",
            since_attended, needs=("last_attended",)),
    Feature("longest_gap", "tokens, log1p", "attention: LazyEviction",
            "longest distance between two such queries in a row; 0 before the second",
            lambda s: torch.log1p(s.longest_gap.float()), needs=("longest_gap",)),
    Feature("age", "tokens, log1p", "text: StreamingLLM", "since the slot was written; 0 for the newest",
            lambda s: torch.log1p(s.age.float())),
    Feature("position", "share of the text", "text", "place of the slot's token in the text so far, from 0 on",
            lambda s: s.positions / s.text_length[:, None, None, None]),
    Feature("in_prompt", "0 or 1", "text: RaaS", "1 if the slot's token belongs to the prompt",
            lambda s: s.in_prompt.float()),
    Feature("key_norm", "log ratio", "keys: KNorm", "length of the key vector over the mean of the head's slots",
            lambda s: relative_norm(s.keys)),
    Feature("value_norm", "log ratio", "values", "length of the value vector over the mean of the head's slots",
            lambda s: relative_norm(s.values)),
    Feature("newer_twin", "cosine", "keys: R-KV",
            "similarity to the newer key of the head that is most like this one, 1 for the same direction; 0 for the "
            "newest slot", newer_twin),
    Feature("surprisal", "nats, log1p", "predictions", "how unexpected the slot's token was to the LLM",
            lambda s: torch.log1p(s.surprisal)),
    Feature("entropy", "nats, log1p", "predictions", "how undecided the LLM was before it saw the slot's token",
            lambda s: torch.log1p(s.entropy)),
)  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(column for feature in FEATURES for column in feature.columns)
CONTEXT: tuple[ContextFeature, ...] = (
    ContextFeature("progress", "share", "text", "tokens generated so far over `max_new_tokens`",
                   lambda s, longest: (s.text_length - s.prompt_length).float() / longest),
    ContextFeature("budget", "slots, log10", "settings", "`budget`",
                   lambda s, longest: torch.log10(torch.full_like(s.text_length, s.budget, dtype=torch.float32))),
    ContextFeature("evict_every", "slots, log10", "settings", "`evict_every`",
                   lambda s, longest: torch.log10(torch.full_like(s.text_length, s.evict_every, dtype=torch.float32))),
    ContextFeature("keep_ratio", "share", "settings", "`budget` over the tokens read so far",
                   lambda s, longest: s.budget / s.text_length.float()),
    ContextFeature("prompt_share", "share", "text", "tokens of the prompt over the tokens read so far",
                   lambda s, longest: s.prompt_length.float() / s.text_length.float()),
    ContextFeature("surprisal", "nats, log1p", "predictions", "mean over the newest `evict_every` tokens",
                   lambda s, longest: torch.log1p(s.recent("surprisal", s.evict_every))),
    ContextFeature("entropy", "nats, log1p", "predictions", "mean over the newest `evict_every` tokens",
                   lambda s, longest: torch.log1p(s.recent("entropy", s.evict_every))),
)  # fmt: skip


@torch.no_grad()
def slot_features(slots: SlotView) -> Tensor:
    """Return all columns of `FEATURES`, [N, L, H_kv, S, F] float32, within [-10, 10]."""
    return torch.cat([all_columns(layer) for layer in slots.layers()], 1)


def all_columns(slots: SlotView) -> Tensor:
    """The same, of all layers of a view at once."""
    return feature_columns(slots, FEATURES)


def feature_columns(slots: SlotView, chosen: Sequence[Feature]) -> Tensor:
    """Return the columns of some features, as `slot_features` does; a view of [N, L, H_kv, F, S]."""
    columns: list[Tensor] = []
    queries = max((feature.queries for feature in chosen), default=0)
    if queries:
        slots.attention(queries)  # more than a window's: what is asked for later are slices of it
    for feature in chosen:
        values = feature.compute(slots)
        columns.extend((values.mean(-2), values.amax(-2)) if feature.grouped else (values,))
    by_column = torch.stack(columns, -2).float().clamp_(-LIMIT, LIMIT)  # several times as fast as stacking at the end
    return by_column.transpose(-1, -2)


def context_features(slots: SlotView, max_new_tokens: int) -> Tensor:
    """Return the columns of `CONTEXT`, [N, C] float32."""
    columns = [column.compute(slots, max_new_tokens) for column in CONTEXT]
    return torch.stack(columns, -1).float().clamp(-LIMIT, LIMIT)
