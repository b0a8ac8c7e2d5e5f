"""Random eviction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_gym.engine.slots import SlotView


class Random(Agent):
    """Uniform keep scores, drawn anew for each decision, layer, KV head and slot.

        s ~ U(0, 1), [N, L, H_kv, S]

    A row's draws follow from its episode's seed and its decision alone, so they do not depend on the batch. They are
    drawn on the CPU: every device gets the same ones.

    Source: none; the baseline of every comparison.
    Differs: kvpress reseeds with one number at every call, so the same slot indices go each time; here they change.
    """

    name = "random"
    scope = "model"  # one stream of draws for all layers

    def score(self, slots: SlotView) -> Tensor:
        """Draw each row from its own generator."""
        return draw(slots, slots.shape[1:])


def draw(slots: SlotView, shape: tuple[int, ...]) -> Tensor:
    """Uniform draws [N, *shape] in [0, 1), each row from the generator of its episode and decision."""
    rows = zip(slots.seeds.tolist(), slots.decision.tolist(), strict=True)
    return torch.stack([torch.rand(shape, generator=_generator(*row)) for row in rows]).to(slots.device)


def _generator(seed: int, decision: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, decision]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
