"""The learned scorer: what a small MLP reads of a slot, and the keep score it gives.

One class serves two purposes. The ForesightKV scorer reads keys, values and attention statistics with one MLP per layer
and KV head, so it belongs to one model. The transfer scorer reads `kv_gym.features` alone with one MLP for all heads,
so it can be moved from model to model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kv_agents.heuristics.lagkv import lag_scores
from kv_agents.heuristics.rkv import mean_similarity
from kv_agents.heuristics.window import pool_runs, window_scores
from kv_gym.errors import ConfigError, unknown_name
from kv_gym.features import (
    FEATURES,
    LIMIT,
    all_columns,
    context_features,
    decayed_per_opportunity,
    feature_columns,
    multiples_of_average,
    newer_twin,
    per_opportunity,
)
from kv_gym.llm.attention import unrotate, unrotation
from kv_gym.slots import SlotView

TRAITS = tuple(feature for feature in FEATURES if not feature.grouped and feature.name != "newer_twin")
TWIN = 0.8
"""Cosine above which two keys count as the same token."""
RKV_WINDOW, RKV_KERNEL = 8, 7
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
    window = slots.attention()
    length = window.shape[-2]
    means = newest_means(window, tuple(max(1, length // part) for part in (1, 16, 8, 4)))  # [N, L, H_kv, g, 4, S]
    columns = [window.amax(-2), window.amin(-2), *means.unbind(-2)]
    columns += [per_opportunity(slots.total_attention, slots), decayed_per_opportunity(slots)]
    return multiples_of_average(torch.stack(columns, 3)).flatten(3, 4).transpose(-1, -2)  # [N, L, H_kv, S, 8 g]


def newest_means(rows: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Means over the newest n of the T queries of `rows` [..., T, S], for each n of `counts`, [..., C, S]."""
    ages = torch.arange(rows.shape[-2] - 1, -1, -1, device=rows.device)
    chosen = (ages < torch.tensor(counts, device=rows.device)[:, None]).to(rows.dtype)  # [C, T]
    return chosen / chosen.sum(-1, keepdim=True) @ rows


def context(slots: SlotView) -> Tensor:
    """`kv_gym.features.CONTEXT`, the same for all slots of an episode, [N, L, H_kv, S, C]."""
    columns = context_features(slots, HORIZON)
    return columns[:, None, None, None].expand(*slots.shape, -1)


def age(slots: SlotView) -> Tensor:
    """Tokens since each slot was written, log1p, [N, L, H_kv, S, 1]."""
    return torch.log1p(slots.age.float())[..., None]


def traits(slots: SlotView) -> Tensor:
    """What is known of a slot beside its attention: the columns `TRAITS` of `kv_gym.features`, [N, L, H_kv, S, 9]."""
    return feature_columns(slots, TRAITS)


def relations(slots: SlotView) -> Tensor:
    """How a slot stands to the others of its head, by measures of the heuristics, [N, L, H_kv, S, 7].

    Cosine of keys before RoPE, which compare tokens and not places: highest to a newer one, newer ones above `TWIN`
    (log1p); highest cosine of values to a newer one; R-KV's redundancy and KeyDiff's cosine to the mean key, with RoPE;
    LagKV's score in multiples of the mean; SnapKV's pooled importance in multiples of the average (log1p). None depends
    on the model.
    """
    lag = slots.evict_every
    unit = F.normalize(slots.keys.float(), dim=-1)
    nearest, count = _newer(unrotated_keys(slots))
    no_sink = slots.positions < 0
    lags = lag_scores(slots.keys.float(), lag, no_sink) + lag_scores(slots.values.float(), lag, no_sink)
    pooled = pool_runs(window_scores(slots, min(RKV_WINDOW, lag)), slots.positions, RKV_KERNEL)
    redundant = mean_similarity(unit.flatten(1, 2), 0.5).view_as(nearest)
    columns = [
        nearest, torch.log1p(count), _newer(slots.values.float())[0], redundant,
        F.cosine_similarity(unit, unit.mean(-2, keepdim=True), dim=-1), lags * lag, multiples_of_average(pooled),
    ]  # fmt: skip
    return torch.stack(columns, -1)


def _newer(states: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of `states` [..., S, D]: highest cosine to a newer one (-1 for the newest), and how many pass `TWIN`."""
    unit = F.normalize(states, dim=-1)
    newer = torch.ones(states.shape[-2], states.shape[-2], dtype=torch.bool, device=states.device).triu(1)
    cosine = (unit @ unit.transpose(-1, -2)).masked_fill(~newer, -1.0)
    return cosine.amax(-1), (cosine > TWIN).sum(-1).float()


INPUTS: dict[str, Callable[[SlotView], Tensor]] = {
    "keys": lambda slots: slots.keys.float(),
    "unrotated_keys": unrotated_keys,
    "values": lambda slots: slots.values.float(),
    "age": age,
    "statistics": attention_statistics,
    "traits": traits,
    "newer_twin": lambda slots: newer_twin(slots)[..., None],
    "relations": relations,
    "features": all_columns,
    "context": context,
}


POOLED = "pooled"
"""Beside `INPUTS`: the mean of all other columns over the slots of the head, so that an MLP that all heads share can
tell what kind of head it looks at."""


@dataclass(frozen=True)
class ScorerConfig:
    """Form of a scorer.

    Attributes:
        inputs: Names in `INPUTS`, and `POOLED`.
        hidden: Width of the hidden layer.
        shared: One MLP for all layers and heads.
        n_layers, n_kv_heads: Of the model, for scorers that are not shared.
        n_inputs: Columns.
    """

    inputs: tuple[str, ...]
    hidden: int
    shared: bool
    n_layers: int
    n_kv_heads: int
    n_inputs: int

    def __post_init__(self) -> None:
        for name in self.inputs:
            if name not in (*INPUTS, POOLED):
                raise unknown_name("scorer input", name, [*INPUTS, POOLED])
        if self.hidden < 1 or self.n_inputs < 1:
            raise ConfigError(f"hidden={self.hidden} and n_inputs={self.n_inputs} must be 1 or more.")


def read_inputs(slots: SlotView, names: tuple[str, ...]) -> Tensor:
    """Gather what a scorer reads, [N, L, H_kv, S, F] float32."""
    return torch.cat(list(_layer_inputs(slots, names)), 1)


def _layer_inputs(slots: SlotView, names: tuple[str, ...]) -> Iterator[Tensor]:
    """The same, layer by layer, each [N, 1, H_kv, S, F]."""
    for layer in slots.layers():
        columns = torch.cat([INPUTS[name](layer) for name in names if name != POOLED], -1)
        if POOLED in names:
            columns = torch.cat([columns, columns.mean(-2, keepdim=True).expand_as(columns)], -1)
        yield columns


class Scorer(nn.Module):
    """An MLP with one hidden layer per layer and KV head (or one for all), on standardised inputs.

        s = w2 gelu(W1 (x - mean) / std + b1) + b2

    One MLP for all clips its standardised inputs to [-10, 10].

    Source: ForesightKV's SelectionModel, arXiv:2602.03203.
    Differs: gives keep scores (its phi is an evict logit, -s here). Inputs are standardised by the statistics of the
        first training decisions; its code creates a LayerNorm and never applies it. Always float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.config = config
        heads = 1 if config.shared else config.n_layers * config.n_kv_heads
        self.register_buffer("mean", torch.zeros(heads, 1, config.n_inputs))
        self.register_buffer("std", torch.ones(heads, 1, config.n_inputs))
        self.w1 = nn.Parameter(torch.randn(heads, config.n_inputs, config.hidden) / config.n_inputs**0.5)
        self.b1 = nn.Parameter(torch.zeros(heads, 1, config.hidden))
        self.w2 = nn.Parameter(torch.randn(heads, config.hidden, 1) / config.hidden**0.5)
        self.b2 = nn.Parameter(torch.zeros(heads, 1, 1))

    def standardise(self, inputs: Tensor) -> None:
        """Set mean and standard deviation from inputs [N, L, H_kv, S, F]."""
        rows = self._by_head(inputs)
        self.mean.copy_(rows.mean(1, keepdim=True))
        self.std.copy_(rows.std(1, keepdim=True).clamp_min(1e-3))

    def forward(self, inputs: Tensor, first_layer: int = 0) -> Tensor:
        """Keep scores [N, L, H_kv, S] of inputs [N, L, H_kv, S, F], whose first layer is the model's `first_layer`."""
        n, layers, heads, slots, _ = inputs.shape
        if self.config.shared:  # it meets models and budgets that it was not standardised on
            inputs = ((inputs - self.mean[0]) / self.std[0]).clamp(-LIMIT, LIMIT) * self.std[0] + self.mean[0]
        mlps = slice(None) if self.config.shared else slice(first_layer * heads, (first_layer + layers) * heads)
        w1 = self.w1[mlps] / self.std[mlps].transpose(-1, -2)  # standardising the weights is cheaper than the inputs
        b1 = self.b1[mlps] - self.mean[mlps] @ w1
        hidden = F.gelu(torch.baddbmm(b1, self._by_head(inputs), w1))
        scores = torch.baddbmm(self.b2[mlps], hidden, self.w2[mlps])[..., 0]
        if self.config.shared:
            return scores.reshape(n, layers, heads, slots)
        return scores.reshape(layers, heads, n, slots).permute(2, 0, 1, 3)

    def score(self, slots: SlotView) -> Tensor:
        """Keep scores [N, L, H_kv, S] at a decision."""
        layers = enumerate(_layer_inputs(slots, self.config.inputs))
        return torch.cat([self(inputs, index) for index, inputs in layers], 1)

    def _by_head(self, inputs: Tensor) -> Tensor:
        """Inputs with the MLPs in front, [L * H_kv or 1, rows, F]."""
        if self.config.shared:
            return inputs.reshape(1, -1, inputs.shape[-1])
        return inputs.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2)
