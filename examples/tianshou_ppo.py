"""PPO by Tianshou, and its policy on the bench: `python examples/tianshou_ppo.py`. About three minutes on two cores.

Needs `pip install tianshou`. It steps single environments, one after the other, so it is slower than those that take
`gym.make_vec`, and waits for each new problem unless `kv-gym references KVEvict-AIME-v0 --problems 64` has met it
before. `FlatSlots` makes observations and actions the vectors that it asks for.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from kv_agents.observation import ObservationAgent
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import AbstractContinuousActorProbabilistic
from tianshou.utils.net.continuous import AbstractContinuousCritic
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import kv_gym  # noqa: F401  # registers the environments
from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text
from kv_gym.envs.wrappers import FlatSlots

ENV = "KVEvict-AIME-v0"
OPTIONS: dict[str, Any] = {"budget": 96, "mode": "replay", "granularity": "token"}  # all heads evict the same tokens
NUM_ENVS, HORIZON = 8, 16


class SlotNet(nn.Module):
    """A number for every slot, from the slot's features alone."""

    def __init__(self, n_slots: int, n_features: int, hidden: int = 32) -> None:
        super().__init__()
        self.n_slots, self.n_features = n_slots, n_features
        self.norm = nn.LayerNorm(n_features, elementwise_affine=False)
        self.net = nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, flat: Any) -> Tensor:
        """[N, S] of flat observations."""
        slots = torch.as_tensor(flat, dtype=torch.float32)[:, : self.n_slots * self.n_features]
        return self.net(self.norm(slots.unflatten(1, (self.n_slots, self.n_features)))).squeeze(-1)


class Actor(AbstractContinuousActorProbabilistic):
    """Mean and deviation of a keep score for every slot."""

    def __init__(self, net: SlotNet) -> None:
        super().__init__(net.n_slots)
        self.net, self.log_std = net, nn.Parameter(torch.tensor(-0.7))

    def get_preprocess_net(self) -> nn.Module:
        """All of it."""
        return self.net

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[tuple[Tensor, Tensor], Any]:
        """[N, S] each."""
        mean = self.net(obs)
        return (mean, self.log_std.exp().expand_as(mean)), state


class Critic(AbstractContinuousCritic):
    """Value of an episode: the mean over its slots."""

    def __init__(self, net: SlotNet) -> None:
        super().__init__(1)
        self.net = net

    def forward(self, obs: Any, act: Any = None, info: Any = None) -> Tensor:
        """[N, 1]."""
        return self.net(obs).mean(1, keepdim=True)


def distribution(parts: tuple[Tensor, Tensor]) -> Distribution:
    """Of the scores of all slots at once."""
    return Independent(Normal(*parts), 1)


def make() -> FlatSlots:
    """One environment, flat."""
    return FlatSlots(gym.make(ENV, split="train", n_problems=64, **OPTIONS))


def train(steps: int) -> SlotNet:
    """Train from nothing, with Tianshou's own progress bar; returns what gives the mean scores."""
    torch.manual_seed(0)
    env = DummyVectorEnv([make for _ in range(NUM_ENVS)])
    one = make()
    sizes = (one.n_slots, one.n_features)
    actor = Actor(SlotNet(*sizes))
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=distribution, action_space=one.action_space, action_scaling=False
    )
    algorithm = PPO(
        policy=policy, critic=Critic(SlotNet(*sizes)), optim=AdamOptimizerFactory(lr=1e-3), gamma=0.9, gae_lambda=0.9,
        max_grad_norm=0.5, ent_coef=0.0,
    )  # fmt: skip
    batch = NUM_ENVS * HORIZON
    collector = Collector(algorithm, env, VectorReplayBuffer(batch, NUM_ENVS))
    params = OnPolicyTrainerParams(
        training_collector=collector, max_epochs=max(1, steps // batch), epoch_num_steps=batch,
        collection_step_num_env_steps=batch, batch_size=64, update_step_num_repetitions=4, test_step_num_episodes=0,
        verbose=False,
    )  # fmt: skip
    algorithm.run_training(params)
    return actor.net


def main() -> None:
    """Train, then compare with published rules."""
    parser = argparse.ArgumentParser(description="PPO by Tianshou.")
    parser.add_argument("--steps", type=int, default=1024, help="environment steps, all rows together")
    parser.add_argument("--problems", type=int, default=32, help="of the test split, for the table at the end")
    args = parser.parse_args()
    net = train(args.steps)

    def policy(observation: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return net(observation["slots"].reshape(len(observation["slots"]), -1)).clamp(-1, 1).numpy()

    agent = ObservationAgent(policy, ENV, **OPTIONS)
    print(text(compare(ENV, [agent, "random", "streaming"], budgets=[96], problems=args.problems)))


if __name__ == "__main__":
    main()
