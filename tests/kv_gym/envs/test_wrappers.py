"""Infos of numbers alone, by hand, and that TorchRL takes the environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import small_env
import torch
from gymnasium.utils.env_checker import check_env
from small_env import ENV
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs

import kv_gym  # noqa: F401
from kv_gym.envs.wrappers import FlatSlots, NumericInfo, numeric
from kv_gym.errors import UnknownNameError, UnknownOptionError

SMALL = small_env.SMALL | {"n_problems": 4}


def test_numbers_of_infos() -> None:
    mask, only = np.array([True, True]), np.array([False, True])
    infos = {
        "n_tokens": np.array([3, 4]), "_n_tokens": mask, "problem": np.array(["a", "b"]), "_problem": mask,
        "reward_terms": {"correct": np.array([0.0, 1.0]), "_correct": mask}, "_reward_terms": mask,
        "hindsight": {"answer": np.array(["1", "2"]), "golden": np.zeros((2, 3))}, "_hindsight": mask,
        "final_obs": np.array([None, {"slots": 1}]), "_final_obs": only,
        "final_info": {"n_tokens": np.array([0, 9]), "_n_tokens": only, "family": np.array([None, "x"])},
        "_final_info": only,
    }  # fmt: skip
    found = numeric(infos)
    assert set(found) == {
        "n_tokens", "_n_tokens", "reward_terms/correct", "_reward_terms/correct", "final_obs", "_final_obs",
        "final_info", "_final_info",
    }  # fmt: skip
    assert found["reward_terms/correct"].tolist() == [0.0, 1.0]
    assert set(found["final_info"]) == {"n_tokens", "_n_tokens"} and found["final_obs"][1] == {"slots": 1}


@pytest.mark.parametrize(
    "options", [{}, {"action": "mask", "granularity": "token"}, {"action": "slot", "evict_every": 1}]
)
def test_torchrl_takes_a_single_environment(options: dict[str, Any]) -> None:
    check_env_specs(GymWrapper(gymnasium.make(ENV, **(SMALL | options))))


def test_torchrl_makes_an_environment_by_its_id() -> None:
    """It tries `frameskip` first, and waits for a TypeError in Python's words."""
    check_env_specs(GymEnv(ENV, **SMALL))
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'bugdet'.*Did you mean 'budget'") as caught:
        gymnasium.make(ENV, bugdet=3)
    assert isinstance(caught.value, UnknownOptionError) and isinstance(caught.value, UnknownNameError)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_torchrl_takes_a_vector_environment(mode: str) -> None:
    env = gymnasium.make_vec(ENV, num_envs=2, autoreset_mode=mode, **SMALL)
    wrapped = GymWrapper(NumericInfo(env) if mode == "SameStep" else env)
    check_env_specs(wrapped)
    if mode == "SameStep":
        rollout = wrapped.rollout(40, break_when_any_done=False)
        done = rollout["next", "done"][..., 0]
        assert rollout.shape == (2, 40) and done.any()
        row, step = done[:, :-1].nonzero()[0].tolist()
        after, last = rollout["slots"][row, step + 1], rollout["next", "slots"][row, step]
        assert not torch.equal(after, last)  # the last observation of an episode is not the first of the next one


@pytest.mark.parametrize("options", [{}, {"granularity": "token"}, {"action": "slot", "evict_every": 1}])
def test_a_flat_environment_is_the_environment(options: dict[str, Any]) -> None:
    flat, plain = (gymnasium.make(ENV, **(SMALL | options)) for _ in range(2))
    flat = FlatSlots(flat)
    found, info = flat.reset(seed=3)
    expected, told = plain.reset(seed=3)
    action = flat.action_space.sample()
    for _ in range(2):
        slots = found[: flat.n_slots * flat.n_features].reshape(expected["slots"].shape)
        np.testing.assert_array_equal(slots, expected["slots"])
        rest = found[slots.size :]
        np.testing.assert_array_equal(rest[: expected["context"].size], expected["context"])
        np.testing.assert_array_equal(rest[expected["context"].size :], np.ravel(expected["protected"]))
        assert "hindsight" in told and set(info) == set(told) - {"hindsight"}
        found, *ours, info = flat.step(action)
        expected, *theirs, told = plain.step(np.reshape(action, plain.action_space.shape))
        assert ours == theirs


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_a_flat_environment() -> None:
    env = FlatSlots(gymnasium.make(ENV, **SMALL).unwrapped)
    check_env(env, skip_render_check=True)
    assert env.spec is not None and gymnasium.make(env.spec).action_space == env.action_space
