"""Scorer inputs and the MLP, against slow versions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from kv_agents.learned.inputs import (
    INPUTS,
    all_of,
    attention_of_group,
    attention_statistics,
    read_inputs,
    relations,
    unrotated_keys,
)
from kv_agents.learned.scorer import Scorer, ScorerConfig

from kv_gym.engine.eviction import slots_to_keep
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.statistics import DECAY

MakeCache = Callable[..., SlotCache]
MakeView = Callable[..., SlotView]


def config(shared: bool = False, n_inputs: int = 3) -> ScorerConfig:
    return ScorerConfig(("keys",), 4, shared, 2, 2, n_inputs)


@pytest.mark.parametrize("shared", [False, True])
def test_scorer_is_one_mlp_per_head_or_one_for_all(shared: bool) -> None:
    torch.manual_seed(0)
    scorer = Scorer(config(shared))
    inputs = torch.randn(2, 2, 2, 5, 3) * 3 + 1
    scorer.standardise(inputs)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.normal_()
    scorer.requires_grad_(False)
    found = scorer(inputs)
    for n, layer, head, slot in ((0, 0, 0, 0), (1, 1, 0, 4), (0, 0, 1, 2), (1, 1, 1, 3)):
        mlp = 0 if shared else 2 * layer + head
        rows = (inputs if shared else inputs[:, layer, head]).reshape(-1, 3)
        expected = float(scorer.b2[mlp])
        for unit in range(4):
            z = float(scorer.b1[mlp, 0, unit])
            for column in range(3):
                x = (inputs[n, layer, head, slot, column] - rows[:, column].mean()) / rows[:, column].std()
                z += float(x * scorer.w1[mlp, column, unit])
            expected += 0.5 * z * (1 + math.erf(z / math.sqrt(2))) * float(scorer.w2[mlp, unit, 0])
        assert abs(float(found[n, layer, head, slot]) - expected) < 1e-4


def test_statistics_are_true_windows_of_queries(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(n=2, evict_every=16))
    found = attention_statistics(view)
    slots = view.shape[-1]
    window = view.attention()
    row, layer, head, member = 1, 0, 1, 1

    def column(statistic: int) -> torch.Tensor:
        return torch.expm1(found[row, layer, head, :, 2 * statistic + member]) / slots

    rows = window[row, layer, head, member]
    for slot in range(slots):
        seen = window[row, layer, head, member, :, slot].tolist()
        age = int(view.age[row, layer, head, slot])
        total = float(view.total_attention[row, layer, head, member, slot])
        decayed = float(view.decayed_attention[row, layer, head, member, slot])
        expected = [
            max(seen), min(seen), sum(seen) / len(seen),
            *(float(sum(rows[-n:, slot])) / n for n in (1, 2, 4)),
            total / (age + 1), decayed / sum(DECAY**i for i in range(age + 1)),
        ]  # fmt: skip
        for statistic, value in enumerate(expected):
            assert abs(float(column(statistic)[slot]) - value) < 1e-5


def test_statistics_of_a_group_are_mean_and_maximum_over_its_heads(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(n=2))
    each, found = attention_statistics(view), attention_of_group(view)
    for statistic in range(8):
        pair = each[..., 2 * statistic : 2 * statistic + 2]
        torch.testing.assert_close(found[..., statistic], (pair[..., 0] + pair[..., 1]) / 2)
        torch.testing.assert_close(found[..., 8 + statistic], torch.maximum(pair[..., 0], pair[..., 1]))


def test_unrotated_keys_are_the_keys_before_rope(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(n=2))
    plain = unrotated_keys(view)
    positions = view.positions
    for pair in range(4):  # head_dim 8: channel i turns with channel i + 4, by position / 10000^(i / 4)
        angle = positions * 10000 ** (-pair / 4)
        first, second = plain[..., pair], plain[..., pair + 4]
        turned = first * angle.cos() - second * angle.sin()
        torch.testing.assert_close(turned, view.keys[..., pair], atol=1e-4, rtol=0)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_relations_remember_what_was_stated_again(
    make_cache: MakeCache, make_view: MakeView, read_on: Callable[..., SlotView]
) -> None:
    cache = make_cache(n=2, lengths=[20, 20])  # a first decision: twelve slots of a budget, eight new ones
    for slot in (3, 15):  # twins: of the channels that turn slowest
        cache.keys[1, 0, 1, slot] = cache.values[1, 0, 1, slot] = torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 1])
    view = make_view(cache, decisions=[0, 0])
    row, layer, head = 0, 1, 1
    best, place_of_old = dict[int, list[float]](), int(view.positions[row, layer, head, 3])
    for decision in range(3):
        found = relations(view)[row, layer, head]
        assert relations(view)[row, layer, head].equal(found), "asking twice changes nothing"
        text, places = int(view.text_length[row]), view.positions[row, layer, head].tolist()
        states = [x[row, layer, head] for x in (unrotated_keys(view), view.values)]
        for slot, place in enumerate(places):
            mine = best.setdefault(place, [-1.0, -1.0, place])
            for later in range(slot + 1, len(places)):
                for kind in range(2):
                    mine[kind] = max(mine[kind], cosine(states[kind][slot], states[kind][later]))
                new = later >= 12 or decision == 0
                if new and cosine(states[0][slot], states[0][later]) > 0.8:
                    mine[2] = text - 1
            expected = [mine[0], mine[1], math.log1p(text - 1 - mine[2])]
            torch.testing.assert_close(found[slot], torch.tensor(expected), atol=1e-5, rtol=0)
        order = torch.rand(view.shape, generator=torch.Generator().manual_seed(decision))
        order[row, layer, head, places.index(place_of_old)] = 1.0
        order[row, layer, head, 15] = -1.0  # the twin goes first
        view = read_on(view, slots_to_keep(order, torch.zeros_like(view.protected), 8))
    assert best[place_of_old][0] > 0.99 and place_of_old in places


def test_relations_compare_all_slots_in_the_rows_that_just_began(make_cache: MakeCache, make_view: MakeView) -> None:
    begun, later, mixed = (
        relations(make_view(make_cache(n=2, lengths=[20, 20]), decisions=decisions))
        for decisions in ([0, 0], [2, 2], [2, 0])
    )
    assert mixed[0].equal(later[0]) and mixed[1].equal(begun[1])
    assert not later.equal(begun)


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_have_a_row_per_slot_and_are_finite(name: str, make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    inputs = read_inputs(view, all_of((name,)))
    assert inputs.shape[:-1] == view.shape and inputs.dtype == torch.float32 and inputs.isfinite().all()


def test_scorer_config_names_what_is_wrong() -> None:
    with pytest.raises(UnknownNameError, match="'key'.*Did you mean 'keys'"):
        ScorerConfig(("key",), 4, False, 2, 2, 8)
    with pytest.raises(ConfigError, match="hidden=0"):
        ScorerConfig(("keys",), 0, False, 2, 2, 8)


@pytest.mark.parametrize("shared", [False, True])
def test_scorer_gives_the_same_layer_by_layer(shared: bool, make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    names = ("keys", "statistics", "traits")
    inputs = read_inputs(view, all_of(names))
    scorer = Scorer(ScorerConfig(names, 4, shared, 2, 2, inputs.shape[-1])).requires_grad_(False)
    scorer.standardise(inputs)
    whole = torch.cat([INPUTS[name].read(view, INPUTS[name].columns) for name in names], -1)
    torch.testing.assert_close(scorer.score(view), scorer(whole), atol=1e-5, rtol=0)


def test_state_set_in_a_layer_is_that_of_the_whole(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    for index, layer in enumerate(view.layers()):
        layer.carry("mine").add_(index + 1)
        layer.memory("ours", (3,)).add_(index + 1)
        torch.testing.assert_close(layer.output_weights, view.output_weights[index : index + 1])
        torch.testing.assert_close(layer.attention(), view.attention()[:, index : index + 1])
        torch.testing.assert_close(layer.total_attention, view.total_attention[:, index : index + 1])
    assert view.carry("mine")[:, 0].eq(1).all() and view.carry("mine")[:, 1].eq(2).all()
    assert view.memory("ours", (3,))[:, 1].eq(2).all()


def test_one_mlp_for_all_does_not_trust_inputs_beyond_what_it_saw() -> None:
    torch.manual_seed(0)
    scorer = Scorer(config(shared=True)).requires_grad_(False)
    inputs = torch.randn(2, 2, 2, 5, 3) * torch.tensor([1.0, 1.0, 1e-4]) + 2  # the last one was constant in training
    scorer.standardise(inputs)
    assert scorer.std[0, 0, 2] == 1.0
    moved = inputs + torch.tensor([0.0, 0.0, 20.0])
    steepest = 1.13 * scorer.w1[0, 2].abs() @ scorer.w2[0, :, 0].abs()  # 1.13: of the GELU
    assert (scorer(moved) - scorer(inputs)).abs().max() < 10 * steepest
    torch.testing.assert_close(scorer(moved), scorer(moved + torch.tensor([0.0, 0.0, 5.0])), atol=1e-4, rtol=0)
