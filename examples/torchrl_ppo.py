"""PPO by TorchRL, and its policy on the bench: `python examples/torchrl_ppo.py`. About two minutes on two cores.

Needs `pip install torchrl`. `NumericInfo` makes the infos of the vector environment flat, as TorchRL wants them.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from kv_agents.observation import ObservationAgent
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, set_composite_lp_aggregate
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import kv_gym  # noqa: F401  # registers the environments
from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text
from kv_gym.envs.wrappers import NumericInfo

ENV = "KVEvict-AIME-v0"
OPTIONS: dict[str, Any] = {"budget": 96, "mode": "replay", "granularity": "token"}  # all heads evict the same tokens
NUM_ENVS, HORIZON, EPOCHS, MINIBATCH = 16, 32, 4, 128


class SlotScores(nn.Module):
    """Mean and deviation of a keep score for every slot, from the slot's features alone."""

    def __init__(self, n_features: int, hidden: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_features, elementwise_affine=False)
        self.net = nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.log_std = nn.Parameter(torch.tensor(-0.7))

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """[..., S] each."""
        mean = self.net(self.norm(slots)).squeeze(-1)
        return mean, self.log_std.exp().expand_as(mean)


class Value(nn.Module):
    """Value of an episode, from the mean over its slots."""

    def __init__(self, n_features: int, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, slots: Tensor) -> Tensor:
        """[..., 1]."""
        return self.net(slots.mean(-2))


def build(n_features: int) -> tuple[ProbabilisticActor, ValueOperator]:
    """Actor and critic."""
    scores = TensorDictModule(SlotScores(n_features), in_keys=["slots"], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(scores, in_keys=["loc", "scale"], distribution_class=TanhNormal, return_log_prob=True)
    return actor, ValueOperator(Value(n_features), in_keys=["slots"])


def train(steps: int) -> ProbabilisticActor:
    """Train from nothing; prints the mean reward of each round."""
    torch.manual_seed(0)
    set_composite_lp_aggregate(False).set()
    env = GymWrapper(NumericInfo(gym.make_vec(ENV, num_envs=NUM_ENVS, split="train", **OPTIONS)))
    actor, critic = build(env.observation_spec["slots"].shape[-1])
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.0)
    advantage = GAE(gamma=0.9, lmbda=0.9, value_network=critic, average_gae=True)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-3)
    collector = Collector(
        env, actor, frames_per_batch=NUM_ENVS * HORIZON, total_frames=steps, auto_register_policy_transforms=False
    )
    for i, batch in enumerate(collector):
        with torch.no_grad():
            advantage(batch)
        flat = batch.reshape(-1)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(flat)).split(MINIBATCH):
                losses = loss_of(flat[rows])
                loss = losses["loss_objective"] + losses["loss_critic"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_of.parameters(), 0.5)
                optimizer.step()
        print(f"round {i + 1}: reward {batch['next', 'reward'].mean():.4f} a step", flush=True)
    collector.shutdown()
    return actor


def main() -> None:
    """Train, then compare with published rules."""
    parser = argparse.ArgumentParser(description="PPO by TorchRL.")
    parser.add_argument("--steps", type=int, default=6144, help="environment steps, all rows together")
    parser.add_argument("--problems", type=int, default=32, help="of the test split, for the table at the end")
    args = parser.parse_args()
    actor = train(args.steps)

    def policy(observation: dict[str, np.ndarray]) -> np.ndarray:
        seen = TensorDict({"slots": torch.as_tensor(observation["slots"])}, [len(observation["slots"])])
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            return actor(seen)["action"].numpy()

    agent = ObservationAgent(policy, ENV, **OPTIONS)
    print(text(compare(ENV, [agent, "random", "streaming"], budgets=[96], problems=args.problems)))


if __name__ == "__main__":
    main()
