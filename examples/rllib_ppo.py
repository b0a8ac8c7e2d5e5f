"""PPO by RLlib, and its policy on the bench: `python examples/rllib_ppo.py`. About three minutes on two cores.

Needs `pip install "ray[rllib]"`, which wants Gymnasium 1.2. RLlib steps single environments, one after the other, so it
is slower than those that take `gym.make_vec`, and waits for each new problem unless `kv-gym references KVEvict-AIME-v0
--problems 64` has met it before. `FlatSlots` makes the observation the one vector that it asks for.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from kv_agents.observation import ObservationAgent
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor, nn

import kv_gym  # noqa: F401  # registers the environments
from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text
from kv_gym.envs.wrappers import FlatSlots

ENV = "KVEvict-AIME-v0"
OPTIONS: dict[str, Any] = {"budget": 96, "mode": "replay", "granularity": "token"}  # all heads evict the same tokens


class SlotModule(TorchRLModule, ValueFunctionAPI):
    """A keep score for every slot from the slot's features alone, and a value from their mean."""

    def setup(self) -> None:
        """Build both networks."""
        self.n_slots, self.n_features = self.model_config["n_slots"], self.model_config["n_features"]
        self.norm = nn.LayerNorm(self.n_features, elementwise_affine=False)
        self.actor = nn.Sequential(nn.Linear(self.n_features, 32), nn.Tanh(), nn.Linear(32, 1))
        self.critic = nn.Sequential(nn.Linear(self.n_features, 32), nn.Tanh(), nn.Linear(32, 1))
        self.log_std = nn.Parameter(torch.tensor(-0.7))

    def slots(self, observation: Tensor) -> Tensor:
        """[N, S, F] of flat observations."""
        flat = observation[:, : self.n_slots * self.n_features]
        return self.norm(flat.unflatten(1, (self.n_slots, self.n_features)))

    def scores(self, observation: Tensor) -> Tensor:
        """Mean keep scores [N, S]."""
        return self.actor(self.slots(observation)).squeeze(-1)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mean = self.scores(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: torch.cat([mean, self.log_std.expand_as(mean)], -1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Value of each episode, [N]."""
        return self.critic(self.slots(batch[Columns.OBS]).mean(1)).squeeze(-1)


def make(config: dict[str, Any]) -> FlatSlots:
    """One environment, flat."""
    return FlatSlots(gym.make(ENV, split="train", n_problems=64, **OPTIONS))


def train(steps: int, rows: int = 8) -> SlotModule:
    """Train from nothing; prints the mean return of each round."""
    register_env("kv", make)
    shape = make({})
    sizes = {"n_slots": shape.n_slots, "n_features": shape.n_features}
    config = (
        PPOConfig()
        .environment("kv")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=rows, rollout_fragment_length=16)
        .training(
            train_batch_size=16 * rows, minibatch_size=64, num_epochs=4, lr=1e-3, gamma=0.9, lambda_=0.9, grad_clip=0.5
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=SlotModule, model_config=sizes))
        .debugging(seed=0, log_level="ERROR")
    )
    algorithm = config.build_algo()
    for i in range(max(1, steps // (16 * rows))):
        found = algorithm.train()["env_runners"]
        print(f"round {i + 1}: return {found.get('episode_return_mean', float('nan')):.3f}", flush=True)
    module = algorithm.get_module()
    algorithm.stop()
    return module


def main() -> None:
    """Train, then compare with published rules."""
    parser = argparse.ArgumentParser(description="PPO by RLlib.")
    parser.add_argument("--steps", type=int, default=1024, help="environment steps, all rows together")
    parser.add_argument("--problems", type=int, default=32, help="of the test split, for the table at the end")
    args = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2)
    module = train(args.steps)

    def policy(observation: dict[str, np.ndarray]) -> np.ndarray:
        flat = torch.as_tensor(observation["slots"]).flatten(1)
        with torch.no_grad():
            return module.scores(flat).clamp(-1, 1).numpy()

    agent = ObservationAgent(policy, ENV, **OPTIONS)
    print(text(compare(ENV, [agent, "random", "streaming"], budgets=[96], problems=args.problems)))


if __name__ == "__main__":
    main()
