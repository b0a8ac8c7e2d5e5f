"""Agents are asked layer by layer, unless they say that they compare layers."""

from __future__ import annotations

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.heuristics.random import Random
from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.learned.agents import Foresight, Transfer
from torch import Tensor

from kv_gym.agents import agent_entries, load_agent
from kv_gym.bench.scoring import keep_scores
from kv_gym.config import make_config
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.features import slot_features
from kv_gym.engine.reference import ReferenceStore
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError, ScoreError
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source


@pytest.fixture(scope="module")
def slots() -> SlotView:
    """Two episodes of the embedded model at their third decision."""
    config, llm = make_config("KVEvict-AIME-v0", budget=48, evict_every=16, n_recent=1), load_llm("tiny")
    source = problem_source("aime")
    found = ReferenceStore(llm, config).get([source.problem("validation", 0, index) for index in range(4)])
    references = [reference for reference in found if is_playable(reference, config)][:2]
    batch = EpisodeBatch(llm, config, 2, hindsight=True, queries=64)
    batch.reset([0, 1], references, [0, 1])
    for _ in range(2):
        batch.step(torch.rand(batch.slots().shape, generator=torch.Generator().manual_seed(3)))
    return batch.slots()


@pytest.mark.parametrize("name", sorted(agent_entries()))
def test_layer_by_layer_is_all_at_once(slots: SlotView, name: str) -> None:
    agent = load_agent(name)
    if agent.evicts:
        at_once = agent.score(slots)
        for state in (slots._cache.carried, slots._cache.memories, slots._cache._fills):
            state.clear()  # what agents count is not counted twice
        torch.testing.assert_close(keep_scores(agent, slots), at_once, atol=1e-5, rtol=1e-5)


def test_layers_that_are_compared_are_seen_together(slots: SlotView) -> None:
    seen: list[tuple[int, int]] = []

    class Watching(Agent):
        name = "watching"

        def score(self, slots: SlotView) -> Tensor:
            seen.append((slots.first_layer, slots.shape[1]))
            return slots.positions.float()

    keep_scores(Watching(), slots)
    assert seen == [(0, 1), (1, 1), (2, 1), (3, 1)]
    Watching.scope = "model"  # type: ignore[attr-defined]
    keep_scores(Watching(), slots)
    assert seen[4:] == [(0, 4)]
    draws = keep_scores(Random(), slots)
    assert not torch.equal(draws[:, 0], draws[:, 1]), "layers draw one after the other"
    Watching.scope = "head"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"scope='head'. Use 'layer', or 'model'"):
        keep_scores(Watching(), slots)


def test_state_of_a_layer_is_its_own(slots: SlotView) -> None:
    class Counting(Agent):
        name = "counting"

        def score(self, slots: SlotView) -> Tensor:
            count, memory = slots.carry("count"), slots.memory("layer", ())
            count += slots.first_layer + 1
            memory += slots.first_layer + 1
            return count + memory[..., None, None]

    found = keep_scores(Counting(), slots)
    assert found[0, :, 0, 0].tolist() == [2, 4, 6, 8]
    assert keep_scores(Counting(), slots)[1, :, 1, 5].tolist() == [4, 8, 12, 16]


def test_features_of_a_layer_are_those_of_the_model(slots: SlotView) -> None:
    whole = slot_features(slots)
    torch.testing.assert_close(torch.cat([slot_features(layer) for layer in slots.layers()], 1), whole)


def test_scores_of_another_shape_are_refused(slots: SlotView) -> None:
    class Whole(SnapKV):
        name = "whole"

        def score(self, slots: SlotView) -> Tensor:
            return torch.zeros(2, 4, 2, 64)

    with pytest.raises(ScoreError, match=r"\(2, 4, 2, 64\); one per slot is \(2, 1, 2, 64\).*scope = 'model'"):
        keep_scores(Whole(), slots)
    assert Foresight.scope == Transfer.scope == "model"
