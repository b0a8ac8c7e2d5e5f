"""What learned scorers read of a slot, by the names that a checkpoint lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kv_gym.engine.features import (
    FEATURES,
    all_columns,
    context_features,
    decayed_per_opportunity,
    feature_columns,
    heads_at_once,
    multiples_of_average,
    per_opportunity,
)
from kv_gym.engine.slots import SlotView
from kv_gym.llm.attention import unrotate, unrotation

TRAITS = tuple(feature for feature in FEATURES if not feature.grouped and feature.name != "newer_twin")
TWIN = 0.8
"""Cosine above which two keys count as the same token."""
HORIZON = 1024
"""Generated tokens that count as one in the context's progress."""


def unrotated_keys(slots: SlotView) -> Tensor:
    """Keys before RoPE, [N, L, H_kv, S, D]: what the token is, apart from where it stands."""
    positions = slots.positions
    table = torch.arange(int(positions.max()) + 1, device=slots.device)[None]
    cos, sin = (F.embedding(positions, values[0]) for values in unrotation(*slots.rotary(table)))
    return unrotate(slots.keys.float(), cos, sin)


def attention_statistics(slots: SlotView) -> Tensor:
    """The eight statistics of ForesightKV, each of every query head, [N, L, H_kv, S, 8 group].

    Of the last window's queries: maximum, minimum and mean, and the means of its last sixteenth, eighth and quarter
    (the paper's 8, 16 and 32 of 128; at least one query); all and decayed attention since the slot was written, per
    query. Each as log(1 + multiples of the average slot's share).

    Source: ForesightKV, arXiv:2602.03203, section 3. Differs: its code slices the group axis instead of the query axis
        for the last 8, 16 and 32, and serves the plain sum where training had the decayed one; sums are per query here,
        so that `evict_every` and age do not change their scale.
    """
    return _statistics(slots).flatten(3, 4).transpose(-1, -2)


def attention_of_group(slots: SlotView) -> Tensor:
    """The same statistics, mean and maximum over the query heads, [N, L, H_kv, S, 16]: their number fits any model."""
    columns = _statistics(slots)  # [N, L, H_kv, 8, group, S]
    return torch.cat([columns.mean(4), columns.amax(4)], 3).transpose(-1, -2)


def _statistics(slots: SlotView) -> Tensor:
    """[N, L, H_kv, 8, group, S]."""
    window = slots.attention()
    length = window.shape[-2]
    means = newest_means(window, tuple(max(1, length // part) for part in (1, 16, 8, 4)))  # [N, L, H_kv, g, 4, S]
    columns = [window.amax(-2), window.amin(-2), *means.unbind(-2)]
    columns += [per_opportunity(slots.total_attention, slots), decayed_per_opportunity(slots)]
    return multiples_of_average(torch.stack(columns, 3))


def newest_means(rows: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Means over the newest n of the T queries of `rows` [..., T, S], for each n of `counts`, [..., C, S]."""
    ages = torch.arange(rows.shape[-2] - 1, -1, -1, device=rows.device)
    chosen = (ages < torch.tensor(counts, device=rows.device)[:, None]).to(rows.dtype)  # [C, T]
    return chosen / chosen.sum(-1, keepdim=True) @ rows


def context(slots: SlotView) -> Tensor:
    """`kv_gym.engine.features.CONTEXT`, the same for all slots of an episode, [N, L, H_kv, S, C]."""
    columns = context_features(slots, HORIZON)
    return columns[:, None, None, None].expand(*slots.shape, -1)


def age(slots: SlotView) -> Tensor:
    """Tokens since each slot was written, log1p, [N, L, H_kv, S, 1]."""
    return torch.log1p(slots.age.float())[..., None]


def traits(slots: SlotView) -> Tensor:
    """What is known of a slot beside its attention: the columns `TRAITS`, [N, L, H_kv, S, 9]."""
    return feature_columns(slots, TRAITS)


def relations(slots: SlotView) -> Tensor:
    """Whether a slot was stated again, [N, L, H_kv, S, 3].

    Highest cosine to a key that was written later (before RoPE: tokens, not places; -1 for the newest), and to a value;
    tokens since the last decision that found such a key above `TWIN`, log1p (since the slot was written, if none did).
    What is gone by now counts too: slots carry what they were compared with, so that a decision compares only the
    newest window with all.
    """
    token, value = later_cosine(slots, unrotated_keys(slots)), later_cosine(slots, slots.values.float())
    now = (slots.text_length[:, None, None, None] - 1).float()
    stated = slots.carry("stated again", -1.0)
    stated.copy_(torch.where(token > TWIN, now, stated))
    nearest = [slots.carry("nearest key", -1.0), slots.carry("nearest value", -1.0)]
    for best, found in zip(nearest, (token, value), strict=True):
        best.copy_(torch.maximum(best, found))
    return torch.stack([*nearest, torch.log1p(now - torch.maximum(stated, slots.positions))], -1)


def later_cosine(slots: SlotView, states: Tensor) -> Tensor:
    """Highest cosine of `states` [N, L, H_kv, S, D] to later ones of the newest window, [N, L, H_kv, S]; -1 for none.

    At its first decision an episode's slots are all compared with each other.
    """
    unit, first = F.normalize(states, dim=-1), slots.decision == 0
    best = _highest(unit, slots.evict_every)
    best[first] = _highest(unit[first], unit.shape[-2])
    return best


def _highest(unit: Tensor, newest: int) -> Tensor:
    """Highest cosine of unit vectors [..., S, D] to the later ones of the newest, [..., S]."""
    index = torch.arange(unit.shape[-2], device=unit.device)
    not_later = torch.where(index >= index[-newest:, None], -4.0, 0.0)  # [newest, S]
    heads = unit.flatten(0, 2).split(heads_at_once(not_later.numel(), unit.device))
    best = [torch.baddbmm(not_later, head[:, -newest:], head.transpose(-1, -2)).amax(-2) for head in heads]
    return torch.cat(best).clamp_min(-1.0).view(unit.shape[:-1])


INPUTS: dict[str, Callable[[SlotView], Tensor]] = {
    "keys": lambda slots: slots.keys.float(),
    "unrotated_keys": unrotated_keys,
    "values": lambda slots: slots.values.float(),
    "age": age,
    "statistics": attention_statistics,
    "attention": attention_of_group,
    "traits": traits,
    "relations": relations,
    "features": all_columns,
    "context": context,
}


BEFORE_ROPE = frozenset({"unrotated_keys", "relations"})
"""Inputs that undo RoPE: not every model's can be undone (`FrozenLLM.check_rotary`)."""


def read_inputs(slots: SlotView, names: tuple[str, ...]) -> Tensor:
    """Gather what a scorer reads, [N, L, H_kv, S, F] float32."""
    return torch.cat(list(read_by_layer(slots, names)), 1)


def read_by_layer(slots: SlotView, names: tuple[str, ...]) -> Iterator[Tensor]:
    """The same, layer by layer, each [N, 1, H_kv, S, F]."""
    for layer in slots.layers():
        yield torch.cat([INPUTS[name](layer) for name in names], -1)
