"""PPO in a single file, in the manner of CleanRL: `python examples/ppo_cleanrl.py`. About two minutes on two cores.

One small network scores every slot, so the policy does not care how many there are; a Gaussian around its scores is the
action. The trained policy then plays on the bench like any other agent.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from kv_agents.observation import ObservationAgent
from torch import Tensor, nn

import kv_gym  # noqa: F401  # registers the environments
from kv_gym.bench.compare import compare
from kv_gym.bench.tables import text

ENV = "KVEvict-AIME-v0"
OPTIONS: dict[str, Any] = {"budget": 96, "mode": "replay", "granularity": "token"}  # all heads evict the same tokens
GAMMA, GAE_LAMBDA, CLIP, EPOCHS, MINIBATCHES = 0.9, 0.9, 0.2, 4, 4


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="PPO in a single file.")
    parser.add_argument("--steps", type=int, default=6144, help="environment steps, all rows together")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--horizon", type=int, default=32, help="steps of each row between two updates")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--problems", type=int, default=32, help="of the test split, for the table at the end")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class ActorCritic(nn.Module):
    """Scores each slot by its features and those of the episode; values an episode by the mean over its slots."""

    def __init__(self, space: gym.spaces.Dict, hidden: int = 32) -> None:
        super().__init__()
        assert space["slots"].shape and space["context"].shape
        n_features = space["slots"].shape[-1] + space["context"].shape[-1]
        self.norm = nn.LayerNorm(n_features, elementwise_affine=False)
        self.actor = nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.critic = nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.log_std = nn.Parameter(torch.tensor(-0.7))

    def forward(self, observation: dict[str, Tensor]) -> tuple[torch.distributions.Normal, Tensor]:
        """Keep scores of the slots [N, S] as a distribution, and values [N]."""
        slots, context = observation["slots"], observation["context"]
        features = self.norm(torch.cat([slots, context[:, None].expand(-1, slots.shape[1], -1)], -1))
        scores = self.actor(features).squeeze(-1)
        return torch.distributions.Normal(scores, self.log_std.exp()), self.critic(features.mean(1)).squeeze(-1)


def tensors(observation: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The parts that the policy reads."""
    return {name: torch.as_tensor(observation[name]) for name in ("slots", "context")}


def advantages(rewards: Tensor, values: Tensor, dones: Tensor, last: Tensor) -> Tensor:
    """Generalised advantage estimates, [T, N]; `dones` says which steps ended an episode."""
    found, running = torch.zeros_like(rewards), torch.zeros_like(last)
    following = torch.cat([values[1:], last[None]])
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + GAMMA * following[t] * ~dones[t] - values[t]
        running = delta + GAMMA * GAE_LAMBDA * ~dones[t] * running
        found[t] = running
    return found


def collect(
    env: Any, model: ActorCritic, observation: dict[str, np.ndarray], horizon: int
) -> tuple[dict[str, Any], Any]:
    """Play `horizon` steps in every row."""
    steps: list[dict[str, Any]] = []
    for _ in range(horizon):
        seen = tensors(observation)
        with torch.no_grad():
            policy, value = model(seen)
            action = policy.sample()
        observation, reward, terminated, truncated, _ = env.step(action.clamp(-1, 1).numpy())
        done = torch.as_tensor(terminated | truncated)
        steps.append(
            seen
            | {"action": action, "log_prob": policy.log_prob(action).sum(-1), "value": value, "done": done}
            | {"reward": torch.as_tensor(reward, dtype=torch.float32)}
        )
    return {name: torch.stack([step[name] for step in steps]) for name in steps[0]}, observation


def update(model: ActorCritic, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """Take the clipped PPO steps on a flat batch."""
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(batch["value"])).chunk(MINIBATCHES):
            policy, value = model({name: batch[name][rows] for name in ("slots", "context")})
            ratio = (policy.log_prob(batch["action"][rows]).sum(-1) - batch["log_prob"][rows]).exp()
            gain = batch["advantage"][rows]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy_loss = -torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            loss = policy_loss + 0.5 * (value - batch["return"][rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


def train(args: argparse.Namespace) -> ActorCritic:
    """Train from nothing; prints the mean reward of each round."""
    torch.manual_seed(args.seed)
    env = gym.make_vec(ENV, num_envs=args.num_envs, split="train", **OPTIONS)
    model = ActorCritic(env.single_observation_space)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    observation, _ = env.reset(seed=args.seed)
    rounds = max(1, args.steps // (args.num_envs * args.horizon))
    for i in range(rounds):
        steps, observation = collect(env, model, observation, args.horizon)
        with torch.no_grad():
            last = model(tensors(observation))[1]
        steps["advantage"] = advantages(steps["reward"], steps["value"], steps["done"], last)
        steps["return"] = steps["advantage"] + steps["value"]
        update(model, optimizer, {name: values.flatten(0, 1) for name, values in steps.items()})
        print(f"round {i + 1} of {rounds}: reward {steps['reward'].mean():.4f} a step", flush=True)
    env.close()
    return model


def main() -> None:
    """Train, then compare with published rules."""
    args = parse()
    model = train(args)

    def policy(observation: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return model(tensors(observation))[0].mean.clamp(-1, 1).numpy()

    agent = ObservationAgent(policy, ENV, **OPTIONS)
    print(text(compare(ENV, [agent, "random", "streaming"], budgets=[96], problems=args.problems)))


if __name__ == "__main__":
    main()
