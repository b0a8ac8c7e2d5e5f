"""Plays episodes again, on the full cache's texts, and sums up what goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.guard import Guard
from kv_gym.bench.plan import Episode
from kv_gym.bench.play import AgentFailure, check_model, decide
from kv_gym.bench.progress import Progress
from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import text_capacity
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.eviction import others, share_scores, slots_to_keep
from kv_gym.engine.golden import Labels
from kv_gym.engine.reference import answer_start
from kv_gym.errors import KVGymError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.show.explain.tally import N_AGES, EpisodeTally, Quantity, tally
from kv_gym.show.explain.token_types import TokenType, token_types
from kv_gym.show.recorder import token_pieces


class ExplainError(KVGymError):
    """Episodes cannot be played again."""


def play_again(
    llm: FrozenLLM, config: EnvConfig, agents: Sequence[AgentLike], episodes: Sequence[Episode], width: int,
    progress: Progress,
) -> list[list[EpisodeTally]]:  # fmt: skip
    """Replay episodes with each agent, up to where the LLM would write the answer itself.

    Args:
        llm: The frozen LLM.
        config: Settings of the env, in replay mode.
        agents: Who evicts.
        episodes: What is played.
        width: Episodes side by side.
        progress: Told how many decisions are made.

    Returns:
        For each agent its tallies, one for each episode, in order.

    Raises:
        ExplainError: An agent raised.
    """
    assert config.mode == "replay", "golden attention is that of a known text"
    total = sum(n_decisions(llm, config, episode) for episode in episodes)
    progress.begin("decisions", total * len(agents))
    found: list[list[EpisodeTally]] = [[] for _ in agents]
    for start in range(0, len(episodes), width):
        some = episodes[start : start + width]
        labels, types = Labels(llm, config, len(some)), _types(llm, config, some)
        labels.start(torch.arange(len(some), device=llm.shape.device), [episode.reference for episode in some])
        for agent, tallies in zip(agents, found, strict=True):
            progress.describe(agent.name)
            tallies += _play(llm, config, agent, some, labels, types, progress)
    return found


def n_decisions(llm: FrozenLLM, config: EnvConfig, episode: Episode) -> int:
    """Decisions of an episode: one for each whole window between what is read first and the answer."""
    return max(0, (answer_start(llm, episode.reference) - config.slots) // config.evict_every)


def _play(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, episodes: Sequence[Episode], labels: Labels, types: Tensor,
    progress: Progress,
) -> list[EpisodeTally]:  # fmt: skip
    """Play a batch to its end with one agent."""
    n = len(episodes)
    batch = EpisodeBatch(
        llm, config, n, agent.needs, agent.uses_hindsight, evictions=True, queries=queries_of(agent)
    )  # fmt: skip
    batch.reset(range(n), [episode.reference for episode in episodes], [episode.seed for episode in episodes])
    batch.drop_answers()
    empty = (len(Quantity), llm.shape.n_layers, llm.shape.n_kv_heads, len(TokenType), N_AGES)
    tallies = [
        EpisodeTally(one.problem.id, one.problem.family, one.seed, torch.zeros(empty, dtype=torch.float64))
        for one in episodes
    ]
    guard = Guard(batch)
    for rows, decision in _decisions(batch, agent, guard, labels, types):
        for row in rows:
            tallies[row].add(decision[row])
        progress.advance(len(rows))
    return tallies


def _decisions(
    batch: EpisodeBatch, agent: AgentLike, guard: Guard, labels: Labels, types: Tensor
) -> Iterator[tuple[list[int], dict[int, Tensor]]]:
    """Yield, for each decision, the rows that run and the tally of each.

    Raises:
        ExplainError: The agent raised.
    """
    while batch.active.any():
        rows, view = batch.active.nonzero()[:, 0].tolist(), batch.slots()
        before, protected, age = view.positions.clone(), view.protected.clone(), view.age.clone()
        future = labels.of(before, batch.decision).future
        keep = slots_to_keep(share_scores(future, batch.config.shared), protected, batch.config.evict_every)
        golden = _marked(others(keep, before.shape[-1]), before)
        try:
            decide(batch, agent, guard)
            batch.drop_answers()
            if not batch.active.any():
                check_model(guard)
        except AgentFailure as failure:
            raise ExplainError(f"agent {agent.name!r} failed: {failure.reason}. Mend it, or leave it out.") from failure
        kind = types.gather(1, before.flatten(1)).view_as(before)
        found = {}
        for row in rows:
            gone = _marked(batch.records.evicted(row)[-1].to(before), before[row])
            found[row] = tally(gone, golden[row], protected[row], future[row], kind[row], age[row])
        yield rows, found


def _marked(indices: Tensor, like: Tensor) -> Tensor:
    """Slots by their indices [..., K] as marks, of the shape of `like` [..., S]."""
    return torch.zeros_like(like, dtype=torch.bool).scatter_(-1, indices, True)


def _types(llm: FrozenLLM, config: EnvConfig, episodes: Sequence[Episode]) -> Tensor:
    """`TokenType` of each token of the texts, [N, C]; `SPECIAL` behind their ends."""
    shape = len(episodes), text_capacity(config)
    found = torch.full(shape, int(TokenType.SPECIAL), dtype=torch.long)
    special = set(llm.tokenizer.all_special_ids)
    for row, episode in zip(found, episodes, strict=True):
        reference = episode.reference
        ids = reference.tokens.tolist()
        pieces = token_pieces(ids, lambda part: str(llm.tokenizer.decode(part)))
        row[: len(ids)] = torch.tensor(token_types(pieces, ids, reference.n_prompt, special))[: len(row)]
    return found.to(llm.shape.device)
