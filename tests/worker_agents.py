"""Agents whose process ends, or hangs, while they score. In a file of their own, which is sent to workers along."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from kv_agents.base import Agent

from kv_gym.engine.slots import SlotView


@dataclass(eq=False)
class Dying(Agent):
    """Keep the newest; `deaths` times, whoever scores next is killed."""

    folder: str = ""
    deaths: int = 0
    name = "dying"

    def score(self, slots: SlotView) -> torch.Tensor:
        """Position; or the end of the process."""
        for i in range(self.deaths):
            try:
                (Path(self.folder) / f"death-{i}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return slots.positions.float()


@dataclass(eq=False)
class Hanging(Agent):
    """Never come back from a decision."""

    name = "hanging"

    def score(self, slots: SlotView) -> torch.Tensor:
        """Wait."""
        time.sleep(3600)
        return slots.positions.float()


@dataclass(eq=False)
class Locked(Agent):
    """Hold what cannot be sent."""

    name = "locked"

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def score(self, slots: SlotView) -> torch.Tensor:
        """Position."""
        return slots.positions.float()
