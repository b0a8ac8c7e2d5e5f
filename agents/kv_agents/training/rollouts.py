"""Rollouts of a policy: groups that play one problem and differ only in what was drawn.

A group draws from its own stream of luck, so it is the same whoever plays it beside whatever else: `split` shares the
groups of a batch among workers, and `joined` puts together what they bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kv_agents.learned.inputs import read_inputs
from kv_agents.learned.policy import sample, scores_of
from kv_agents.learned.scorer import Scorer, ScorerConfig
from kv_gym.bench.player import moved
from kv_gym.config import EnvConfig
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.reference import Reference
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.rewards import needs_answer, weights_of

NO_SPREAD = 1e-6  # a group whose returns differ by less teaches nothing


@dataclass(frozen=True)
class Policy:
    """Who draws.

    Attributes:
        config, weights: Of the scorer.
        scale: Unit of its scores.
        temperature: In that unit.
        picks: Whether log-probabilities are of each pick, or of whole orders.
    """

    config: ScorerConfig
    weights: dict[str, Tensor]
    scale: float
    temperature: float
    picks: bool

    def scorer(self, device: torch.device) -> Scorer:
        """Build the scorer there."""
        found = Scorer(self.config)
        found.load_state_dict(self.weights)
        return found.to(device)


@dataclass(frozen=True)
class Groups:
    """What is played.

    Attributes:
        config: Settings of the env.
        references: A problem a group, on any device.
        luck: Seed of each group's draws.
        size: Rollouts a group.
        credit: `decision`: advantage from the rewards after each decision. `episode`: one for all, from their sum.
        gamma: Discount per decision.
    """

    config: EnvConfig
    references: Sequence[Reference]
    luck: Sequence[int]
    size: int
    credit: Literal["decision", "episode"]
    gamma: float

    def split(self, parts: int) -> list[Groups]:
        """The same in so many parts, or fewer where there are fewer groups."""
        places = [part for part in np.array_split(np.arange(len(self.references)), parts) if len(part)]
        return [
            replace(self, references=[self.references[i] for i in part], luck=[self.luck[i] for i in part])
            for part in places
        ]


@dataclass
class Rollouts:
    """What a batch of rollouts stored, a row for each decision of each rollout.

    Attributes:
        inputs: Of the pool's slots, drawn ones first and in order, [R, L, H_kv, P, F].
        log_prob: Of what was drawn when it was, nats, [R, L, H_kv, k], or 1 for k where it is of whole orders.
        advantage: [R].
        returns: Of each rollout, [N]; `correct`: score of its answer, [N].
        made: Decisions in all, of which R teach something.
    """

    inputs: Tensor
    log_prob: Tensor
    advantage: Tensor
    returns: Tensor
    correct: Tensor
    made: int


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """Put rollouts together, in order."""
    return Rollouts(
        inputs=torch.cat([part.inputs for part in parts]),
        log_prob=torch.cat([part.log_prob for part in parts]),
        advantage=torch.cat([part.advantage for part in parts]),
        returns=torch.cat([part.returns for part in parts]),
        correct=torch.cat([part.correct for part in parts]),
        made=sum(part.made for part in parts),
    )


@torch.no_grad()
def roll(llm: FrozenLLM, policy: Policy, groups: Groups) -> Rollouts:
    """Play groups side by side, drawing every eviction; what is stored lies on the model's device."""
    n, size, device = len(groups.references), groups.size, llm.shape.device
    scorer = policy.scorer(device)
    batch = EpisodeBatch(llm, groups.config, n * size)
    batch.reset(range(batch.n), [one for one in groups.references for _ in range(size)], [0] * batch.n)
    luck = [torch.Generator().manual_seed(seed) for seed in groups.luck]
    answers = groups.config.mode == "generate" or needs_answer(weights_of(groups.config))
    inputs, log_probs, rewards, running = [], [], [], []
    while batch.active.any():
        view = batch.slots()
        read = read_inputs(view, scorer.config.columns)
        scores = scorer(read) / policy.scale
        uniform = torch.cat([torch.rand(size, *scores.shape[1:], generator=each) for each in luck]).to(device)
        draw = sample(scores, view, uniform, policy.temperature)
        inputs.append(read.gather(3, draw.slots[..., None].expand(*draw.slots.shape, read.shape[-1])))
        log_probs.append(draw.log_probs if policy.picks else draw.log_probs.sum(-1, keepdim=True))
        running.append(batch.active.clone())
        rewards.append(batch.step(scores_of(draw, scores)).reward)
        if not answers:
            batch.drop_answers()
    made, gains = torch.stack(running), torch.stack(rewards).float()
    advantage, teaches = group_advantages(gains, made, size, groups.credit, groups.gamma)
    by_rollout = teaches.T  # so that parts of a batch, one behind the other, are the batch
    return Rollouts(
        torch.stack(inputs, 1)[by_rollout], torch.stack(log_probs, 1)[by_rollout], advantage.T[by_rollout],
        torch.where(made, gains, 0).sum(0), batch.records.correct.float(), int(made.sum()),
    )  # fmt: skip


def roll_apart(llm: FrozenLLM, policy: Policy, groups: Groups) -> Rollouts:
    """The same in a worker: what comes and goes lies in the host's memory."""
    here = replace(groups, references=[moved(one, llm.shape.device) for one in groups.references])
    return on(torch.device("cpu"), roll(llm, policy, here))


def on(device: torch.device, rollouts: Rollouts) -> Rollouts:
    """Rollouts on another device."""
    return replace(
        rollouts, inputs=rollouts.inputs.to(device), log_prob=rollouts.log_prob.to(device),
        advantage=rollouts.advantage.to(device), returns=rollouts.returns.to(device),
        correct=rollouts.correct.to(device),
    )  # fmt: skip


def group_advantages(
    rewards: Tensor, running: Tensor, group: int, credit: Literal["decision", "episode"], gamma: float
) -> tuple[Tensor, Tensor]:
    """Compare each rollout with its group.

    Args:
        rewards: Per decision, [T, N]; the rollouts of a problem are neighbours.
        running: Which decisions were made, [T, N] bool.
        group: Rollouts a problem; N is a multiple.
        credit: `decision`: compare the discounted rewards after each decision. `episode`: compare their plain sums.
        gamma: Discount per decision.

    Returns:
        (advantages [T, N], which teach something [T, N] bool: made, in a group whose returns differ). The advantage is
        the return minus the group's mean, over the group's standard deviation of whole-episode returns.
    """
    rewards = torch.where(running, rewards, 0.0)
    total = rewards.sum(0)
    if credit == "episode":
        returns = total.expand_as(rewards)
    else:
        returns = torch.zeros_like(rewards)
        coming = torch.zeros_like(total)
        for step in reversed(range(len(rewards))):
            coming = rewards[step] + gamma * coming
            returns[step] = coming
    grouped = returns.unflatten(1, (-1, group))  # [T, problems, group]
    spread = grouped.std(-1, keepdim=True, correction=0).amax(0, keepdim=True)
    differs = (spread > NO_SPREAD).expand_as(grouped).flatten(1)
    advantage = ((grouped - grouped.mean(-1, keepdim=True)) / spread.clamp_min(NO_SPREAD)).flatten(1)
    return advantage, running & differs
