"""Actions worked out by hand: six slots, the first and the last protected, two to evict."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.eviction import Granularity, slots_to_keep
from kv_gym.envs.actions import check_action, collapse, decision_shape, keep_scores, make_action_space, spread
from kv_gym.errors import ActionError

LAYERS, HEADS, SLOTS = 2, 3, 6


def settings(**options: Any) -> EnvConfig:
    given = {"budget": 4, "evict_every": 2, "n_recent": 1, "n_sink": 1} | options
    return make_config("KVEvict-AIME-v0", **given)


def shape_of(config: EnvConfig) -> tuple[int, ...]:
    return decision_shape(LAYERS, HEADS, config.slots, config.shared)


def protected(slots: int = SLOTS) -> Tensor:
    marks = torch.zeros(1, LAYERS, HEADS, slots, dtype=torch.bool)
    marks[..., 0] = marks[..., -1] = True
    return marks


def play(config: EnvConfig, action: Any) -> tuple[Tensor, int]:
    """Return the kept slots [L, H, budget] and what was ignored."""
    array = check_action(action, config, shape_of(config), 0)
    scores, ignored = keep_scores(torch.as_tensor(array)[None], protected(config.slots), config)
    assert scores.shape == (1, LAYERS, HEADS, config.slots)
    return slots_to_keep(scores, protected(config.slots), config.evict_every)[0], int(ignored)


MASKS = {
    "exactly enough": ([0, 0, 1, 1, 0, 0], [0, 1, 4, 5], 0),
    "none: the oldest unprotected go": ([0, 0, 0, 0, 0, 0], [0, 3, 4, 5], 0),
    "one: the oldest other fills up": ([0, 0, 0, 1, 0, 0], [0, 2, 4, 5], 0),
    "three: the oldest two go": ([0, 1, 0, 1, 1, 0], [0, 2, 4, 5], 1),
    "all": ([1, 1, 1, 1, 1, 1], [0, 3, 4, 5], 4),
    "only protected ones": ([1, 0, 0, 0, 0, 1], [0, 3, 4, 5], 2),
    "a protected one and one other": ([1, 0, 0, 0, 1, 0], [0, 2, 3, 5], 1),
}


@pytest.mark.parametrize("case", MASKS)
def test_mask_evicts_what_is_marked(case: str) -> None:
    mask, kept, ignored = MASKS[case]
    found, count = play(settings(action="mask", granularity="token"), np.array(mask, dtype=np.int8))
    assert found.tolist() == [[kept] * HEADS] * LAYERS
    assert count == ignored


def test_mask_counts_ignored_marks_of_every_decision() -> None:
    mask = np.zeros((LAYERS, HEADS, SLOTS), dtype=np.int8)
    mask[0, 0] = [1, 0, 1, 1, 0, 0]  # one protected
    mask[1, 2] = [0, 1, 1, 1, 1, 1]  # one protected, two too many
    kept, ignored = play(settings(action="mask", granularity="head"), mask)
    assert ignored == 4
    assert kept[0, 0].tolist() == [0, 1, 4, 5]
    assert kept[1, 2].tolist() == [0, 3, 4, 5]
    assert kept[0, 1].tolist() == [0, 3, 4, 5]


def test_scores_evict_the_lowest() -> None:
    scores = np.array([-1, 0.5, -0.2, 0.9, -0.3, -1], dtype=np.float32)  # the two lowest are protected
    kept, ignored = play(settings(action="scores", granularity="token"), scores)
    assert kept.tolist() == [[[0, 1, 3, 5]] * HEADS] * LAYERS
    assert ignored == 0


def test_equal_scores_evict_the_oldest() -> None:
    kept, _ = play(settings(action="scores", granularity="token"), np.zeros(SLOTS, dtype=np.float32))
    assert kept[0, 0].tolist() == [0, 3, 4, 5]


def test_scores_decide_per_head_or_per_layer() -> None:
    scores = np.zeros((LAYERS, HEADS, SLOTS), dtype=np.float32)
    scores[1, 2, 3:5] = -1
    kept, _ = play(settings(granularity="head"), scores)
    assert kept[1, 2].tolist() == [0, 1, 2, 5]
    assert kept[1, 1].tolist() == [0, 3, 4, 5]
    kept, _ = play(settings(granularity="layer"), scores[:, 2])
    assert kept[1].tolist() == [[0, 1, 2, 5]] * HEADS
    assert kept[0].tolist() == [[0, 3, 4, 5]] * HEADS


@pytest.mark.parametrize(
    ("slot", "kept", "ignored"),
    [(2, [0, 1, 3, 4], 0), (0, [0, 2, 3, 4], 1), (4, [0, 2, 3, 4], 1), (1, [0, 2, 3, 4], 0)],
)
def test_slot_goes_everywhere_and_a_protected_one_is_replaced_by_the_oldest(
    slot: int, kept: list[int], ignored: int
) -> None:
    config = settings(action="slot", evict_every=1)
    found, count = play(config, slot)
    assert found.tolist() == [[kept] * HEADS] * LAYERS
    assert count == ignored


@pytest.mark.parametrize(
    ("granularity", "shape"), [("head", (LAYERS, HEADS, SLOTS)), ("layer", (LAYERS, SLOTS)), ("token", (SLOTS,))]
)
def test_shapes_follow_the_granularity(granularity: str, shape: tuple[int, ...]) -> None:
    for action in ("scores", "mask"):
        config = settings(action=action, granularity=granularity)
        space = make_action_space(config, shape_of(config))
        assert space.shape == shape
        play(config, space.sample())
    values, shared = torch.rand(4, *shape), cast(Granularity, granularity)
    assert torch.equal(collapse(spread(values, shared, torch.Size((4, LAYERS, HEADS, SLOTS))), shared), values)


ERRORS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "shape": (
        {"action": "scores"},
        np.zeros(SLOTS),
        r"shape \(6,\).*takes shape \(2, 3, 6\) \[L, H_kv, S\].*action_space",
    ),
    "layer shape": ({"granularity": "layer"}, np.zeros((3, 2, 6)), r"shape \(3, 2, 6\).*takes shape \(2, 6\) \[L, S\]"),
    "text": ({"granularity": "token"}, list("abcdef"), r"dtype <U1.*takes numbers"),
    "mask value": (
        {"action": "mask", "granularity": "token"},
        [0, 1, 2, 0, 0, 0],
        r"holds 2; .*1 \(evict\) or 0.*scores",
    ),
    "slot beyond": ({"action": "slot", "evict_every": 1}, 5, r"is slot 5; there are slots 0 to 4.*action_masks"),
    "slot below": ({"action": "slot", "evict_every": 1}, -1, r"is slot -1; there are slots 0 to 4"),
    "slot not whole": ({"action": "slot", "evict_every": 1}, 2.0, r"dtype float64; .*takes integers"),
    "slot list": ({"action": "slot", "evict_every": 1}, [1, 2], r"shape \(2,\).*one slot number"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_action_outside_the_space_raises(case: str) -> None:
    options, action, message = ERRORS[case]
    config = settings(**options)
    with pytest.raises(ActionError, match=f"episode 7.*{message}"):
        check_action(action, config, shape_of(config), 7)
