"""What is summed up while episodes are played, against a slow recomputation from a recording and plain attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.golden import Golden
from kv_agents.heuristics.h2o import H2O
from kv_agents.heuristics.random import Random
from torch import Tensor

from kv_gym.agents import AgentLike
from kv_gym.bench.guard import prepare_watched
from kv_gym.bench.plan import Episode
from kv_gym.bench.progress import Silent
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.reference import Reference, ReferenceStore, answer_start
from kv_gym.engine.slots import SlotView
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import list_problems
from kv_gym.show.explain.playing import ExplainError, play_again
from kv_gym.show.explain.tally import EpisodeTally, Quantity, age_group
from kv_gym.show.explain.token_types import token_types
from kv_gym.show.recorder import record_episode, token_pieces

ENV = "KVEvict-AIME-v0"


@pytest.fixture(scope="module")
def llm(random_model: Path) -> FrozenLLM:
    return load_llm(str(random_model))


def small(llm: FrozenLLM, **changes: Any) -> EnvConfig:
    options: dict[str, Any] = {
        "model": llm.name, "mode": "replay", "budget": 40, "evict_every": 8, "n_problems": 2, "max_new_tokens": 90,
        "split": "test", "shadow": False, "n_sink": 1,
    }  # fmt: skip
    return make_config(ENV, **(options | changes))


def references(llm: FrozenLLM, config: EnvConfig) -> list[Reference]:
    return ReferenceStore(llm, config).get(list_problems(config))


def golden_attention(llm: FrozenLLM, config: EnvConfig, reference: Reference) -> Any:
    """A function: golden attention of a position in a layer and KV head, at a decision."""
    plain = copy.deepcopy(llm.model)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        attention = plain(reference.tokens[None], output_attentions=True).attentions
    group = llm.shape.n_q_heads // llm.shape.n_kv_heads

    def future(layer: int, head: int, position: int, decision: int) -> float:
        best, start = 0.0, config.slots + decision * config.evict_every
        while start < len(reference):
            queries = range(start, min(start + config.evict_every, len(reference)))
            pays = [
                float(attention[layer][0, head * group + member, query, position])
                for query in queries
                for member in range(group)
            ]
            best, start = max(best, sum(pays) / len(pays)), start + config.evict_every
        return best

    return future


def slow(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, reference: Reference) -> dict[tuple[int, ...], Tensor]:
    """Sums by (layer, head, type, age group), and decisions under ()."""
    recorded = record_episode(llm, config.model_copy(update={"shadow": True}), agent, reference, ENV)
    ids, future = reference.tokens.tolist(), golden_attention(llm, config, reference)
    pieces = token_pieces(ids, llm.tokenizer.decode)
    kinds = token_types(pieces, ids, reference.n_prompt, set(llm.tokenizer.all_special_ids))
    sums: dict[tuple[int, ...], Tensor] = {(): torch.zeros(1)}
    for number, step in enumerate(recorded.steps):
        length = config.slots + number * config.evict_every
        if length + config.evict_every > answer_start(llm, reference):
            break
        sums[()] += 1
        for layer in range(llm.shape.n_layers):
            for head in range(llm.shape.n_kv_heads):
                gone = step.evicted[layer][head]
                held = recorded.held(number)[layer][head] + gone
                newest = sorted(held)[-config.recent :]
                free = [p for p in held if p >= config.n_sink and p not in newest]
                labels = {p: future(layer, head, p, number) for p in held}
                golden = sorted(free, key=lambda p: labels[p])[: config.evict_every]
                for p in held:
                    place = layer, head, int(kinds[p]), int(age_group(torch.tensor(length - 1 - p)))
                    values = [p in free, p in gone, p in gone and p not in golden, labels[p] * (p in gone)]
                    row = sums.setdefault(place, torch.zeros(len(Quantity), dtype=torch.float64))
                    row += torch.tensor([*map(float, values), labels[p] * (p in golden)], dtype=torch.float64)
    return sums


@pytest.mark.parametrize("agent", [Random(), H2O(), Golden()], ids=lambda agent: agent.name)
def test_it_is_the_slow_computation(llm: FrozenLLM, agent: AgentLike) -> None:
    config = small(llm)
    prepare_watched(llm, agent)
    texts = references(llm, config)
    (found,) = play_again(llm, config, [agent], [Episode(text, 0) for text in texts], 2, Silent())
    for one, reference in zip(found, texts, strict=True):
        expected = slow(llm, config, agent, reference)
        assert one.decisions == expected.pop(()) and one.decisions > 2
        sums = torch.zeros_like(one.sums)
        for (layer, head, kind, age), row in expected.items():
            sums[:, layer, head, kind, age] = row
        torch.testing.assert_close(one.sums, sums, atol=1e-4, rtol=0)
        assert (one.sums[Quantity.EVICTED].sum((-1, -2)) == one.decisions * config.evict_every).all()
        if agent.name == "golden":
            assert not one.sums[Quantity.NEEDED].any()
            assert (one.sums[Quantity.LOST] == one.sums[Quantity.GOLDEN]).all()
        else:
            assert one.sums[Quantity.LOST].sum() > one.sums[Quantity.GOLDEN].sum()


def test_it_does_not_depend_on_what_is_beside_it(llm: FrozenLLM) -> None:
    config, agents = small(llm), [H2O(), Random()]
    episodes = [Episode(text, seed) for seed in (0, 1) for text in references(llm, config)]
    together = play_again(llm, config, agents, episodes, 3, Silent())
    apart = [[play_again(llm, config, [agent], [one], 1, Silent())[0][0] for one in episodes] for agent in agents]
    for ours, theirs in zip(together, apart, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one.problem, one.seed, one.decisions) == (other.problem, other.seed, other.decisions)
            torch.testing.assert_close(one.sums, other.sums, atol=1e-5, rtol=0)


def test_agents_do_not_see_the_future(llm: FrozenLLM) -> None:
    seen = []

    class Looks(Agent):
        name = "looks"

        def score(self, slots: SlotView) -> Tensor:
            seen.append(slots.hindsight)
            return slots.positions.float()

    config = small(llm)
    play_again(llm, config, [Looks()], [Episode(references(llm, config)[0], 0)], 1, Silent())
    assert seen and set(seen) == {None}


def test_an_agent_that_raises_is_named(llm: FrozenLLM) -> None:
    class Raises(Agent):
        name = "raises"

        def score(self, slots: SlotView) -> Tensor:
            raise LookupError("no table")

    config = small(llm)
    with pytest.raises(ExplainError, match="agent 'raises' failed: LookupError: no table. Mend it"):
        play_again(llm, config, [Raises()], [Episode(references(llm, config)[0], 0)], 1, Silent())


def test_progress_counts_to_its_end(llm: FrozenLLM) -> None:
    class Counts(Silent):
        total = done = 0

        def begin(self, stage: str, total: int) -> None:
            self.total += total

        def advance(self, n: int) -> None:
            self.done += n

    config, counts = small(llm), Counts()
    found = play_again(llm, config, [H2O(), Random()], [Episode(t, 0) for t in references(llm, config)], 1, counts)
    assert counts.done == counts.total > 0 and isinstance(found[0][0], EpisodeTally)
