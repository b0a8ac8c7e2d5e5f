"""The learned scorer: what a small MLP reads of a slot, and the keep score it gives.

One class serves two purposes. The ForesightKV scorer reads keys, values and attention statistics with one MLP per layer
and KV head, so it belongs to one model. The transfer scorer reads what no model's size changes, with one MLP for all
heads, so it can be moved from model to model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kv_agents.learned.inputs import all_of, read_by_layer
from kv_gym.engine.features import LIMIT
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError

CONSTANT = 1e-3
"""Standard deviation below which a column told nothing in training. Divided by it, its first change would drown all
others: early in a long prompt every slot is `in_prompt`."""


@dataclass(frozen=True)
class ScorerConfig:
    """Form of a scorer.

    Attributes:
        inputs: Names in `kv_agents.learned.inputs.INPUTS`.
        hidden: Width of the hidden layer.
        shared: One MLP for all layers and heads.
        n_layers, n_kv_heads: Of the model, for scorers that are not shared.
        n_inputs: Numbers that it reads of a slot.
        columns: What those are: the columns of each input, in order (`kv_agents.learned.inputs.Input`). Default: all
            that the inputs have now.
    """

    inputs: tuple[str, ...]
    hidden: int
    shared: bool
    n_layers: int
    n_kv_heads: int
    n_inputs: int
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = dict(self.columns) or all_of(self.inputs)
        if tuple(columns) != tuple(self.inputs):
            given, wanted = ", ".join(columns), ", ".join(self.inputs)
            raise ConfigError(f"columns of {given} for the inputs {wanted}; name each once.")
        for name, read in columns.items():
            if not read or len(set(read)) < len(read):
                raise ConfigError(f"columns of input {name!r}: {list(read)}; name at least one, and each once.")
        object.__setattr__(self, "columns", columns)
        if self.hidden < 1 or self.n_inputs < 1:
            raise ConfigError(f"hidden={self.hidden} and n_inputs={self.n_inputs} must be 1 or more.")


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
        """Set mean and standard deviation from inputs [N, L, H_kv, S, F]; constant columns keep their unit."""
        rows = self._by_head(inputs)
        spread = rows.std(1, keepdim=True)
        self.mean.copy_(rows.mean(1, keepdim=True))
        self.std.copy_(torch.where(spread < CONSTANT, 1.0, spread))

    def forward(self, *inputs: Tensor, first_layer: int = 0) -> Tensor:
        """Keep scores [N, L, H_kv, S].

        Args:
            inputs: All columns, [N, L, H_kv, S, F], or parts of them in order. Parts are never copied side by side, and
                one that is a transposed [.., F, S] is multiplied as it lies.
            first_layer: Of the model, that is the first of the inputs'.
        """
        n, layers, heads, slots, _ = inputs[0].shape
        mlps = slice(None)
        if not self.config.shared:
            mlps = slice(first_layer * heads, (first_layer + layers) * heads)

        def of_all(values: Tensor) -> Tensor:  # [heads or 1, ...] -> [N * L * H_kv, ...]
            return values.expand(n * layers * heads // len(values), *values.shape).flatten(0, 1)

        mean, std = self.mean[mlps], self.std[mlps]
        w1 = self.w1[mlps] / std.transpose(-1, -2)  # standardising the weights is cheaper than the inputs
        hidden, begin = of_all(self.b1[mlps] - mean @ w1).repeat(1, slots, 1), 0
        for part in inputs:
            columns = slice(begin, begin + part.shape[-1])
            if self.config.shared:  # it meets models and budgets that it was not standardised on
                middle, far = mean[..., columns], LIMIT * std[..., columns]
                part = part.clamp(middle - far, middle + far)
            hidden, begin = hidden.baddbmm_(part.flatten(0, 2), of_all(w1[:, columns])), columns.stop
        scores = torch.baddbmm(of_all(self.b2[mlps]), F.gelu(hidden), of_all(self.w2[mlps]))
        return scores.view(n, layers, heads, slots)

    def score(self, slots: SlotView) -> Tensor:
        """Keep scores [N, L, H_kv, S] at a decision."""
        layers = enumerate(read_by_layer(slots, self.config.columns))
        return torch.cat([self(*parts, first_layer=index) for index, parts in layers], 1)

    def _by_head(self, inputs: Tensor) -> Tensor:
        """Inputs with the MLPs in front, [L * H_kv or 1, rows, F]."""
        if self.config.shared:
            return inputs.reshape(1, -1, inputs.shape[-1])
        return inputs.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2)
