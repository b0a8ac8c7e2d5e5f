"""The Plackett-Luce policy: which slots go, drawn one after another without replacement.

Evict logits are negated keep scores. A pool of the likeliest slots is stored with the action, because the probability
of the drawn order depends on who else could have been drawn.

Source: the RL stage of ForesightKV, arXiv:2602.03203 (pool of the top 2 x evict_every). Differs: its code draws
without replacement and scores the draw as independent picks from all slots; here the order's probability is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_gym.engine.slots import SlotView


@dataclass(frozen=True)
class Draw:
    """A drawn eviction, per layer and KV head.

    Attributes:
        slots: The pool's slots: first those that go, in the order they were drawn, then the others, [..., P].
        n_evicted: How many go, k.
        log_probs: Of each pick, given those before it, nats, [..., k]; their sum is that of the drawn order.
    """

    slots: Tensor
    n_evicted: int
    log_probs: Tensor

    @property
    def evicted(self) -> Tensor:
        """Slots that go, [..., k]."""
        return self.slots[..., : self.n_evicted]


def draw_evictions(keep_scores: Tensor, protected: Tensor, n_evicted: int, uniform: Tensor, pool: int) -> Draw:
    """Draw slots to evict by Gumbel top-k.

    Args:
        keep_scores: [..., S].
        protected: Slots that cannot go, [..., S] bool.
        n_evicted: k.
        uniform: Random numbers in [0, 1), [..., S].
        pool: Slots that can be drawn, those with the lowest keep scores; at least k. Fewer if fewer are unprotected.
    """
    free = int((~protected).sum(-1).min())
    logits = (-keep_scores).masked_fill(protected, -torch.inf)
    best = logits.topk(min(pool, free), -1)
    gumbel = -torch.log(-torch.log(uniform.gather(-1, best.indices).clamp(1e-9, 1 - 1e-7)))
    order = (best.values + gumbel).argsort(-1, descending=True)
    slots = best.indices.gather(-1, order)
    return Draw(slots, n_evicted, pick_log_probs(best.values.gather(-1, order), n_evicted))


def order_log_prob(evict_logits: Tensor, n_drawn: int) -> Tensor:
    """Log-probability of drawing the first `n_drawn` of a pool in this order, [...]: the sum of `pick_log_probs`."""
    return pick_log_probs(evict_logits, n_drawn).sum(-1)


def pick_log_probs(evict_logits: Tensor, n_drawn: int) -> Tensor:
    """Log-probability of each of the first `n_drawn` picks of a pool in this order, [..., n_drawn].

        x_j - logsumexp(x_j, ..., x_{P-1})

    Args:
        evict_logits: Of the pool, drawn ones first and in order, [..., P].
        n_drawn: How many were drawn.
    """
    rest = evict_logits.flip(-1).logcumsumexp(-1).flip(-1)
    return (evict_logits - rest)[..., :n_drawn]


def with_noise(keep_scores: Tensor, protected: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Keep scores whose lowest k are a draw from the policy, for any k: Gumbel top-k over all unprotected slots.

    Args:
        keep_scores: [..., S].
        protected: Slots that cannot go, [..., S] bool.
        uniform: Random numbers in [0, 1), [..., S].
        temperature: In units of the standard deviation of a head's unprotected scores; 0 draws nothing.
    """
    free = keep_scores.masked_fill(protected, torch.nan)
    spread = (free - free.nanmean(-1, keepdim=True)).square().nanmean(-1, keepdim=True).sqrt()
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
    return keep_scores - temperature * spread.nan_to_num() * gumbel


def scores_of(draw: Draw, like: Tensor) -> Tensor:
    """Keep scores [..., S] that evict exactly what was drawn."""
    return torch.zeros_like(like).scatter(-1, draw.evicted, -1.0)


def sample(keep_scores: Tensor, slots: SlotView, uniform: Tensor, temperature: float = 1.0) -> Draw:
    """Draw evictions at a decision from the pool of the top 2 x evict_every."""
    k = slots.evict_every
    return draw_evictions(keep_scores / temperature, slots.protected, k, uniform, 2 * k)
