"""An agent that does what it must not. In a file of its own: an agent's identity holds all that its file imports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kv_agents.base import Agent

from kv_gym.engine.slots import SlotView


@dataclass
class Bad(Agent):
    """Does what its option says; a dataclass, hence unhashable."""

    what: str = ""
    name = "bad"

    def score(self, slots: SlotView) -> torch.Tensor:
        scores = slots.positions.float()
        if self.what == "raises":
            raise ValueError("no idea")
        if self.what == "leaves":
            raise SystemExit(3)
        if self.what == "touches":
            slots.values.zero_()
        return scores * float("nan") if self.what == "nan" else scores
