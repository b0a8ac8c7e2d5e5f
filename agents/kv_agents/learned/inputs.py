"""What learned scorers read of a slot: inputs and their columns, by the names that a checkpoint lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kv_gym.engine.features import (
    CONTEXT,
    FEATURES,
    Feature,
    context_features,
    decayed_per_opportunity,
    feature_columns,
    heads_at_once,
    multiples_of_average,
    per_opportunity,
)
from kv_gym.engine.slots import SlotView
from kv_gym.errors import unknown_name
from kv_gym.llm.accumulators import with_needed
from kv_gym.llm.attention import unrotate, unrotation
from kv_gym.llm.cache import CacheShape

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
    return torch.stack([*nearest, torch.log1p(now - torch.maximum(stated, slots.positions))], -2).transpose(-1, -2)


def later_cosine(slots: SlotView, states: Tensor) -> Tensor:
    """Highest cosine of `states` [N, L, H_kv, S, D] to later ones of the newest window, [N, L, H_kv, S]; -1 for none.

    At its first decision an episode's slots are all compared with each other.
    """
    length, first = states.norm(dim=-1).clamp_min(1e-12), slots.decision == 0
    best = _highest(states, length, slots.evict_every)
    if first.any():
        best[first] = _highest(states[first], length[first], states.shape[-2])
    return best


def _highest(states: Tensor, length: Tensor, newest: int) -> Tensor:
    """Highest cosine of states [..., S, D] of some length [..., S] to the later ones of the newest, [..., S]."""
    index = torch.arange(states.shape[-2], device=states.device)
    hidden = index >= index[-newest:, None]
    later = torch.zeros(hidden.shape, device=states.device).masked_fill_(hidden, -math.inf).to(states.dtype)
    at_once = heads_at_once(later.numel(), states.device)
    best = [
        torch.baddbmm(later, head[:, -newest:] / size[:, -newest:, None], head.transpose(-1, -2)).amax(-2) / size
        for head, size in zip(states.flatten(0, 2).split(at_once), length.flatten(0, 2).split(at_once), strict=True)
    ]
    return torch.cat(best).clamp_min(-1.0).view(length.shape)


@dataclass(frozen=True)
class Input:
    """Something that a scorer reads of a slot.

    Attributes:
        columns: What its numbers are, each `name@version`. A column may stand for several numbers side by side: of a
            vector, or of the query heads.
        read: (view, some of the columns) -> their numbers, [N, L, H_kv, S, F].
        each: Numbers of a column: one, those of a vector, or one of each query head of the group.
        needs: some of the columns -> accumulators that they are made of.
    """

    columns: tuple[str, ...]
    read: Callable[[SlotView, Sequence[str]], Tensor]
    each: Literal["one", "vector", "group"] = "one"
    needs: Callable[[Sequence[str]], tuple[str, ...]] = lambda wanted: ()


def versioned(name: str, version: int = 1) -> str:
    """A column by its name and by what that means."""
    return f"{name}@{version}"


def chosen(values: Tensor, columns: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Choose columns of `values` [..., F] by name, in the order that is wanted."""
    if tuple(columns) == tuple(wanted):
        return values
    index = [columns.index(name) for name in wanted]
    return values.unflatten(-1, (len(columns), -1))[..., index, :].flatten(-2)


def whole(
    compute: Callable[[SlotView], Tensor], *names: str, each: Literal["one", "vector", "group"] = "one",
    needs: tuple[str, ...] = (),
) -> Input:  # fmt: skip
    """An input that computes all of its columns at once."""
    columns = tuple(versioned(name) for name in names)
    return Input(columns, lambda slots, wanted: chosen(compute(slots), columns, wanted), each, lambda wanted: needs)


def of_features(features: Sequence[Feature]) -> Input:
    """An input of columns of the observation; only those features are computed that a scorer reads."""
    by_column = {versioned(name, feature.version): feature for feature in features for name in feature.columns}

    def needs(wanted: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for column in wanted for name in by_column[column].needs)

    def read(slots: SlotView, wanted: Sequence[str]) -> Tensor:
        used = {by_column[name].name for name in wanted}
        needed = [feature for feature in features if feature.name in used]
        columns = [name for name, feature in by_column.items() if feature.name in used]
        return chosen(feature_columns(slots, needed), columns, wanted)

    return Input(tuple(by_column), read, needs=needs)


STATISTICS = (
    "window_max", "window_min", "window_mean", "newest_sixteenth", "newest_eighth", "newest_quarter", "total",
    "decayed",
)  # fmt: skip
SUMS = ("total_attention", "decayed_attention")

INPUTS: dict[str, Input] = {
    "keys": whole(lambda slots: slots.keys.float(), "key", each="vector"),
    "unrotated_keys": whole(unrotated_keys, "unrotated_key", each="vector"),
    "values": whole(lambda slots: slots.values.float(), "value", each="vector"),
    "age": whole(age, "age"),
    "statistics": whole(attention_statistics, *STATISTICS, each="group", needs=SUMS),
    "attention": whole(
        attention_of_group, *(f"{name}_{part}" for part in ("mean", "max") for name in STATISTICS), needs=SUMS
    ),
    "traits": of_features([f for f in FEATURES if not f.grouped and f.name != "newer_twin"]),
    "relations": whole(relations, "nearest_later_key", "nearest_later_value", "since_stated_again"),
    "features": of_features(FEATURES),
    "context": Input(
        tuple(versioned(column.name, column.version) for column in CONTEXT),
        lambda slots, wanted: chosen(context(slots), INPUTS["context"].columns, wanted),
    ),
}


BEFORE_ROPE = frozenset({"unrotated_keys", "relations"})
"""Inputs that undo RoPE: not every model's can be undone (`FrozenLLM.check_rotary`)."""

Columns = Mapping[str, Sequence[str]]
"""Names of inputs, and of the columns that are read of each."""


def all_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """All columns that inputs have now.

    Raises:
        UnknownNameError: There is no such input.
    """
    for name in names:
        if name not in INPUTS:
            raise unknown_name("scorer input", name, INPUTS)
    return {name: INPUTS[name].columns for name in names}


def width(columns: Columns, shape: CacheShape) -> int:
    """Numbers that a scorer of these columns reads of a slot of a model."""
    sizes = {"one": 1, "vector": shape.head_dim, "group": shape.group}
    return sum(len(wanted) * sizes[INPUTS[name].each] for name, wanted in columns.items())


def needs_of(columns: Columns) -> tuple[str, ...]:
    """Accumulators that a scorer of these columns reads."""
    return with_needed([name for input_name, wanted in columns.items() for name in INPUTS[input_name].needs(wanted)])


def missing_columns(columns: Columns) -> list[str]:
    """What is not computed (any more), in words."""
    found = []
    for name, wanted in columns.items():
        if name not in INPUTS:
            found.append(f"input {name!r}")
            continue
        there = INPUTS[name].columns
        for column in (column for column in wanted if column not in there):
            same = [other for other in there if other.split("@")[0] == column.split("@")[0]]
            found.append(f"{column!r} of input {name!r}" + (f" (there is {same[0]!r})" if same else ""))
    return found


def read_inputs(slots: SlotView, columns: Columns) -> Tensor:
    """Gather what a scorer reads, [N, L, H_kv, S, F] float32."""
    return torch.cat([torch.cat(parts, -1) for parts in read_by_layer(slots, columns)], 1)


def read_by_layer(slots: SlotView, columns: Columns) -> Iterator[list[Tensor]]:
    """The same, layer by layer, in parts [N, 1, H_kv, S, F] as they lie in memory: vectors, or numbers by column."""
    for layer in slots.layers():
        parts: list[Tensor] = []
        for vectors, names in groupby(columns, lambda name: INPUTS[name].each == "vector"):
            found = [INPUTS[name].read(layer, columns[name]) for name in names]
            parts += found if vectors else [torch.cat([part.transpose(-1, -2) for part in found], -2).transpose(-1, -2)]
        yield parts
