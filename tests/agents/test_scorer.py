"""Scorer inputs and the MLP, against slow versions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from kv_agents.heuristics.rkv import redundancy
from kv_agents.heuristics.window import pool_runs, window_scores
from kv_agents.scorer import (
    INPUTS,
    Scorer,
    ScorerConfig,
    attention_statistics,
    read_inputs,
    relations,
    unrotated_keys,
)

from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.statistics import DECAY
from kv_gym.slots import SlotView

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


def test_relations_are_counted_pair_by_pair(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = make_cache(n=2)
    cache.keys[1, 1, 1, 15] = cache.keys[1, 1, 1, 3] * 2  # a twin
    view = make_view(cache)
    row, layer, head, size = 1, 1, 1, view.shape[-1]
    found = relations(view)[row, layer, head]
    plain, keys, values = (x[row, layer, head] for x in (unrotated_keys(view), view.keys, view.values))
    mean = sum(key / key.norm() for key in keys) / size
    window = window_scores(view, 8)
    pooled = pool_runs(window, view.positions, 7)[row, layer, head]
    forgiven = redundancy(view.keys, 0.5)[row, layer, head].log()  # the columns' mean up to a constant
    for slot in range(size):
        newer = range(slot + 1, size)
        alike = [cosine(plain[slot], plain[other]) for other in newer]
        expected = [
            max(alike, default=-1), math.log1p(sum(x > 0.8 for x in alike)),
            max((cosine(values[slot], values[other]) for other in newer), default=-1),
        ]  # fmt: skip
        torch.testing.assert_close(found[slot, :3], torch.tensor(expected), atol=1e-5, rtol=0)
        assert abs(float(found[slot, 3] - found[0, 3] - forgiven[slot] + forgiven[0])) < 1e-5
        assert abs(float(found[slot, 4]) - cosine(keys[slot], mean)) < 1e-5
        assert abs(float(found[slot, 6]) - math.log1p(float(pooled[slot]) * size)) < 1e-5
    assert cosine(keys[3], keys[15]) > 0.99
    lags = found[:-8, 5].reshape(-1)  # lags of eight, the newest is nobody's
    assert abs(float(lags[-8:].sum()) - 2 * 8) < 1e-4 and not found[-8:, 5].any()


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_have_a_row_per_slot_and_are_finite(name: str, make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    inputs = read_inputs(view, (name,))
    assert inputs.shape[:-1] == view.shape and inputs.dtype == torch.float32 and inputs.isfinite().all()


def test_pooled_inputs_are_means_over_the_slots_of_a_head(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    plain, both = read_inputs(view, ("keys", "age")), read_inputs(view, ("keys", "age", "pooled"))
    torch.testing.assert_close(both[..., :9], plain)
    for slot in range(view.shape[-1]):
        torch.testing.assert_close(both[..., slot, 9:], sum(plain.unbind(-2)) / view.shape[-1])
    config = ScorerConfig(("keys", "age", "pooled"), 4, True, 2, 2, 18)
    assert Scorer(config).score(view).shape == view.shape


def test_scorer_config_names_what_is_wrong() -> None:
    with pytest.raises(UnknownNameError, match="'key'.*Did you mean 'keys'"):
        ScorerConfig(("key",), 4, False, 2, 2, 8)
    with pytest.raises(ConfigError, match="hidden=0"):
        ScorerConfig(("keys",), 0, False, 2, 2, 8)


@pytest.mark.parametrize("shared", [False, True])
def test_scorer_gives_the_same_layer_by_layer(shared: bool, make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    names = ("keys", "statistics", "traits")
    inputs = read_inputs(view, names)
    scorer = Scorer(ScorerConfig(names, 4, shared, 2, 2, inputs.shape[-1])).requires_grad_(False)
    scorer.standardise(inputs)
    whole = torch.cat([INPUTS[name](view) for name in names], -1)
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
    moved = inputs + torch.tensor([0.0, 0.0, 1.0])
    assert (scorer(moved) - scorer(inputs)).abs().max() < 10 * scorer.w1.abs().sum() * scorer.w2.abs().sum()
    torch.testing.assert_close(scorer(moved), scorer(moved + torch.tensor([0.0, 0.0, 5.0])), atol=1e-4, rtol=0)
