"""How the frozen LLM chooses its next token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """Sampling settings; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Choose a token per row.

        Args:
            logits: [N, V], float32.
            uniform: One draw from U(0, 1) per row, [N]. The same draw gives the same token for the same logits, so an
                episode does not depend on its batch, and a run with evictions shares the luck of the full-cache run.

        Returns:
            Token ids, [N].
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        scaled = logits / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:  # far cheaper than to sort a whole vocabulary
            ordered, ids = scaled.topk(self.top_k, dim=-1)
        else:
            ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
        whole = scaled.double().logsumexp(-1, keepdim=True)
        probability = (ordered.double() - whole).exp()  # a draw just below 1 must stay below 1
        outside = probability.cumsum(-1) - probability >= self.top_p  # the token that crosses top_p stays in
        cumulative = probability.masked_fill(outside, 0).cumsum(-1)
        index = torch.searchsorted(cumulative, uniform[:, None].to(cumulative) * cumulative[:, -1:], right=True)
        return ids.gather(-1, index.clamp_max(ids.shape[-1] - 1))[:, 0]


def uniform_draws(seed: int, length: int) -> Tensor:
    """The draws of one episode, one per position, [length] float64."""
    return torch.from_numpy(np.random.default_rng(np.random.SeedSequence([seed])).random(length))


def surprisal_and_entropy(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log p(token) and the entropy of p, both in nats.

    Args:
        logits: [..., V], float32.
        tokens: [...].
    """
    log_p = logits.log_softmax(-1)
    surprisal = -log_p.gather(-1, tokens[..., None])[..., 0]
    return surprisal, -(log_p.exp() * log_p).sum(-1)
