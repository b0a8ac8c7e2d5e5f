"""An eviction rule of your own against the published ones: `python examples/own_agent.py`.

A rule gives every slot a keep score; the lowest go. `kv-gym bench KVEvict-AIME-v0 --agent
examples/own_agent.py:LoudValues` measures it with all options of the bench, and `kv-gym submit` takes it to the
leaderboard (docs/agents.md).
"""

from __future__ import annotations

import argparse

from kv_agents.base import Agent
from kv_agents.heuristics.window import keep_newest
from torch import Tensor

from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text
from kv_gym.engine.slots import SlotView


class LoudValues(Agent):
    """Keeps what the last queries attended to, weighted by how long the slot's value is.

    Args:
        recent: Newest slots that always stay.
    """

    name = "loud-values"

    def __init__(self, recent: int = 16) -> None:
        self.recent = recent

    def score(self, slots: SlotView) -> Tensor:
        """Attention of the last queries [N, L, H_kv, S] times the norm of the value; the newest slots come first."""
        attention = slots.attention().mean((3, 4))  # over the query heads of each KV head, and over the queries
        return keep_newest(attention * slots.values.norm(dim=-1), self.recent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An eviction rule of your own.")
    parser.add_argument("--problems", type=int, default=32, help="of the test split")
    agents = [LoudValues(), "snapkv", "streaming"]
    print(text(compare("KVEvict-AIME-v0", agents, budgets=[96], problems=parser.parse_args().problems)))
