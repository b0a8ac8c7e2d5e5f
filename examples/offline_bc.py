"""Offline RL from a Minari dataset: `python examples/offline_bc.py`. About two minutes on two cores.

An agent plays once and its episodes are kept; a small network then learns from the file alone, without the
environment. Behaviour cloning imitates every step alike; `--weighted` imitates steps more whose return is high for
their time (Peters and Schaal 2007, reward-weighted regression). Needs `pip install "kv-gym[minari]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import minari
import numpy as np
import torch
import torch.nn.functional as F
from kv_agents.observation import ObservationAgent
from torch import Tensor, nn

from kv_gym.agents import load_agent
from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text
from kv_gym.commands.console import BarProgress
from kv_gym.envs.datasets import Recipe, Workshop, dataset_path

ENV = "KVEvict-AIME-v0"
OPTIONS: dict[str, Any] = {"budget": 96, "mode": "replay"}
GAMMA = 0.9


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="Learn from a dataset.")
    parser.add_argument("--agent", default="golden", help="who plays; golden knows the future, the file does not")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--weighted", action="store_true", help="weigh steps by their return")
    parser.add_argument("--problems", type=int, default=32, help="of the test split, for the table at the end")
    return parser.parse_args()


def load(agent: str, episodes: int) -> minari.MinariDataset:
    """The dataset of an agent; made where there is none."""
    name = f"kvevict-aime/{agent}-b96-n{episodes}-v0"
    if not dataset_path(name).exists():
        with BarProgress() as progress:
            Workshop(Recipe(name, ENV, load_agent(agent), episodes, OPTIONS)).make(progress)
    return minari.load_dataset(name)


def returns(rewards: np.ndarray) -> np.ndarray:
    """Discounted sum of the rewards from each step on."""
    found, running = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        found[t] = running = rewards[t] + GAMMA * running
    return found


def weights(dataset: minari.MinariDataset) -> list[Tensor]:
    """Weight of each step of each episode: e to the power of its return's distance from the mean, in deviations."""
    found = [returns(episode.rewards) for episode in dataset.iterate_episodes()]
    every = np.concatenate(found)
    return [
        torch.tensor(np.exp(np.clip((each - every.mean()) / every.std(), -3, 3)), dtype=torch.float32) for each in found
    ]


class Scorer(nn.Module):
    """A keep score for every slot from its features, [..., S, features] -> [..., S]."""

    def __init__(self, n_features: int, hidden: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_features, elementwise_affine=False)
        self.net = nn.Sequential(nn.Linear(n_features, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, slots: Tensor) -> Tensor:
        """Score."""
        return self.net(self.norm(slots)).squeeze(-1)


def batches(
    dataset: minari.MinariDataset, how_many: int, weighted: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Steps of one episode at a time: slots, actions, protected slots, weights."""
    episodes = list(dataset.iterate_episodes())
    each = weights(dataset) if weighted else [torch.ones(len(episode)) for episode in episodes]
    rng = np.random.default_rng(0)
    for _ in range(how_many):
        i = int(rng.integers(len(episodes)))
        steps = rng.choice(len(episodes[i]), min(8, len(episodes[i])), replace=False)
        seen = {name: torch.as_tensor(values[steps]) for name, values in episodes[i].observations.items()}
        yield seen["slots"], torch.as_tensor(episodes[i].actions[steps]), seen["protected"] > 0, each[i][steps]


def train(dataset: minari.MinariDataset, updates: int, weighted: bool) -> Scorer:
    """Regress the ranks that the agent gave the slots; protected slots have none."""
    torch.manual_seed(0)
    model = Scorer(dataset.observation_space["slots"].shape[-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for i, (slots, actions, protected, weight) in enumerate(batches(dataset, updates, weighted)):
        error = F.mse_loss(model(slots), actions, reduction="none").masked_fill(protected, 0)
        loss = (error.flatten(1).mean(1) * weight).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if (i + 1) % 100 == 0:
            print(f"update {i + 1} of {updates}: loss {np.mean(losses[-100:]):.4f}", flush=True)
    return model


def main() -> None:
    """Make or load the dataset, learn from it, then compare with whom it comes from."""
    args = parse()
    model = train(load(args.agent, args.episodes), args.updates, args.weighted)

    def policy(observation: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.as_tensor(observation["slots"])).clamp(-1, 1).numpy()

    learned = ObservationAgent(policy, ENV, **OPTIONS)
    print(text(compare(ENV, [learned, args.agent, "snapkv"], budgets=[96], problems=args.problems)))


if __name__ == "__main__":
    main()
