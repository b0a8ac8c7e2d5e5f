"""PPO by stable-baselines3, and its policy on the bench: `python examples/ppo_sb3.py`. About two minutes on two cores.

`kv-gym train ppo` is the same with evaluation, resuming and a checkpoint at its end.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
from kv_agents.observation import ObservationAgent
from kv_agents.training.sb3 import SlotPolicy, SlotVecEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import kv_gym  # noqa: F401  # registers the environments
from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text

ENV = "KVEvict-AIME-v0"
OPTIONS: dict[str, Any] = {"budget": 96, "mode": "replay", "granularity": "token"}  # all heads evict the same tokens


def main() -> None:
    """Train, then compare with published rules."""
    parser = argparse.ArgumentParser(description="PPO by stable-baselines3.")
    parser.add_argument("--steps", type=int, default=6144, help="environment steps, all rows together")
    parser.add_argument("--problems", type=int, default=32, help="of the test split, for the table at the end")
    args = parser.parse_args()
    env = VecMonitor(SlotVecEnv(gym.make_vec(ENV, num_envs=16, split="train", **OPTIONS)))
    model = PPO(SlotPolicy, env, n_steps=32, batch_size=128, n_epochs=4, gamma=0.9, gae_lambda=0.9, seed=0, verbose=1)
    model.learn(args.steps)
    agent = ObservationAgent(lambda seen: model.predict(seen, deterministic=True)[0], ENV, **OPTIONS)
    print(text(compare(ENV, [agent, "random", "streaming"], budgets=[96], problems=args.problems)))


if __name__ == "__main__":
    main()
