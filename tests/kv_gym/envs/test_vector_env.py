"""The vector environment: each row is a single environment, in Gymnasium's three autoreset modes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
import small_env
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import (
    FilterObservation,
    FlattenObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    TransformObservation,
)
from small_env import ENV, FORMS, Offline

import kv_gym  # noqa: F401
from kv_gym.envs.vector_env import KVEvictVectorEnv
from kv_gym.errors import ActionError, ConfigError, ScoreError, UnknownNameError
from kv_gym.registry import env_ids

SMALL = small_env.SMALL | {"n_problems": 4}


def make(num_envs: int, **options: Any) -> KVEvictVectorEnv:
    env = gymnasium.make_vec(ENV, num_envs=num_envs, **(SMALL | options))
    assert isinstance(env, KVEvictVectorEnv)
    return env


def make_sync(num_envs: int, **options: Any) -> SyncVectorEnv:
    envs = [lambda: gymnasium.make(ENV, **(SMALL | options)) for _ in range(num_envs)]
    return SyncVectorEnv(envs, autoreset_mode=AutoresetMode.SAME_STEP)


def assert_near(found: Any, wanted: Any, path: str = "") -> None:
    """Equal up to the noise of other batch sizes; one entry of a thousand, a count over a threshold, may differ."""
    assert type(found) is type(wanted), path
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), path
        for key in wanted:
            assert_near(found[key], wanted[key], f"{path}/{key}")
    elif isinstance(wanted, (tuple, list)):
        assert len(found) == len(wanted), path
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert_near(a, b, f"{path}/{i}")
    elif isinstance(wanted, np.ndarray) and wanted.dtype == object:
        assert_near(found.tolist(), wanted.tolist(), path)
    elif isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), path
        assert np.isclose(found, wanted, atol=1e-3).mean() >= 0.999, path
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4), path
    else:
        assert found == wanted, path


def row_of(batch: dict[str, Any], row: int) -> dict[str, Any]:
    return {key: array[row] for key, array in batch.items()}


# --- Vector = single ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_single_environments(form: str) -> None:
    options = FORMS[form]
    env, singles = make(3, **options), [gymnasium.make(ENV, **(SMALL | options)) for _ in range(3)]
    observation, _ = env.reset(seed=10)
    for row, single in enumerate(singles):
        assert_near(row_of(observation, row), single.reset(seed=10 + row)[0])
    env.action_space.seed(0)
    for _ in range(3):
        actions = env.action_space.sample()
        observation, rewards, *_ = env.step(actions)
        for row, single in enumerate(singles):
            wanted, reward, *_ = single.step(actions[row])
            assert_near(row_of(observation, row), wanted)
            assert rewards[row] == pytest.approx(reward, abs=1e-4)
    for row, single in enumerate(singles):
        engine = single.unwrapped.core.batch  # type: ignore[attr-defined]
        assert env.core.batch.texts.generated(row).tolist() == engine.texts.generated(0).tolist()


@pytest.mark.parametrize("options", [{}, {"mode": "replay", "hindsight": True}, {"temperature": 1.0}], ids=str)
def test_same_step_is_what_gymnasium_does(options: dict[str, Any]) -> None:
    """Through at least one end of every row: observations, rewards, ends and infos with their masks."""
    options = {"budget": 112} | options  # few steps
    env, sync = make(3, **options), make_sync(3, **options)
    assert_near(env.reset(seed=4), sync.reset(seed=4))
    env.action_space.seed(4)
    ended = np.zeros(3, dtype=bool)
    while not ended.all():
        actions = env.action_space.sample()
        found, wanted = env.step(actions), sync.step(actions)
        assert_near(found, wanted)
        ended |= found[2] | found[3]


def test_row_does_not_depend_on_its_company() -> None:
    alone, crowd = make(1, budget=112), make(3, budget=112)
    alone.reset(seed=[7])
    crowd.reset(seed=[1, 7, 2])
    crowd.action_space.seed(0)
    ends = 0
    while ends < 2:
        actions = crowd.action_space.sample()
        wanted = alone.step(actions[1:2])
        found = crowd.step(actions)
        assert_near(row_of(found[0], 1), row_of(wanted[0], 0))
        assert [part[1] for part in found[2:4]] == [part[0] for part in wanted[2:4]]
        assert found[4]["problem"][1] == wanted[4]["problem"][0]
        ends += int(wanted[2][0] | wanted[3][0])


@pytest.mark.parametrize("env_id", env_ids())
def test_spaces_are_batches_of_the_single_ones(env_id: str, offline: Offline) -> None:
    options = {"n_problems": 1, **offline(env_id)}
    env, single = gymnasium.make_vec(env_id, num_envs=2, **options), gymnasium.make(env_id, **options)
    assert env.single_action_space == single.action_space
    assert env.single_observation_space == single.observation_space
    assert env.action_space == batch_space(single.action_space, 2)
    assert env.observation_space == batch_space(single.observation_space, 2)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, *_ = env.step(env.action_space.sample())
    assert observation in env.observation_space


@pytest.mark.parametrize("env_id", env_ids())
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_spec_survives_json(env_id: str, mode: str, offline: Offline) -> None:
    env = gymnasium.make_vec(env_id, num_envs=2, n_problems=1, autoreset_mode=mode, **offline(env_id))
    assert env.spec is not None
    spec = EnvSpec.from_json(json.dumps(json.loads(env.spec.to_json())))
    assert spec == env.spec
    again = gymnasium.make_vec(spec)
    assert (again.num_envs, again.metadata) == (2, env.metadata)
    assert data_equivalence(env.reset(seed=0), again.reset(seed=0), exact=True)


def test_two_copies_agree() -> None:
    one, other = make(2), make(2)
    assert data_equivalence(one.reset(seed=1), other.reset(seed=1), exact=True)
    one.action_space.seed(1)
    for _ in range(5):
        actions = one.action_space.sample()
        assert data_equivalence(one.step(actions), other.step(actions), exact=True)


# --- Same step ---------------------------------------------------------------------------------------------------


def test_same_step_returns_the_new_observation_and_the_final_one() -> None:
    env = make(2)
    env.reset(seed=0, options={"problem": [0, 3]})
    env.core.batch.texts.end[1] = env.core.batch.texts.length[1] + 4  # row 1 ends in the next step
    observation, _, terminated, truncated, infos = env.step(env.action_space.sample())
    assert (terminated | truncated).tolist() == [False, True]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [False, True]
    assert infos["final_obs"][0] is None
    assert infos["final_obs"][1] in env.single_observation_space
    assert infos["final_info"]["problem"][1] == "aime/test/0/3"
    assert env.core.batch.decision.tolist() == [1, 0]
    assert not np.array_equal(infos["final_obs"][1]["slots"], observation["slots"][1])
    assert infos["n_tokens"][1] < infos["final_info"]["n_tokens"][1]
    env.step(env.action_space.sample())


def shares_memory(one: Any, other: Any) -> bool:
    """Whether two observations or infos hold an array in common."""
    if isinstance(one, dict):
        return any(shares_memory(one[name], other[name]) for name in one.keys() & other.keys())
    if isinstance(one, tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        return any(map(shares_memory, one, other))
    return isinstance(one, np.ndarray) and np.shares_memory(one, other)


def test_returned_arrays_are_nobody_elses() -> None:
    env = make(2, hindsight=True)
    returned = [env.reset(seed=0)]
    for _ in range(3):
        env.core.batch.texts.end[0] = env.core.batch.texts.length[0] + 1
        observation, reward, terminated, truncated, infos = env.step(env.action_space.sample())
        returned.append((observation, {**infos, "reward": reward, "terminated": terminated, "truncated": truncated}))
    assert not any(shares_memory(a, b) for i, a in enumerate(returned) for b in returned[:i])


# --- Disabled ----------------------------------------------------------------------------------------------------


def test_disabled_resets_only_what_the_mask_says() -> None:
    env = make(3, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.core.batch.texts.end[1] = env.core.batch.texts.length[1] + 4
    observation, _, terminated, truncated, infos = env.step(env.action_space.sample())
    ended = terminated | truncated
    assert ended.tolist() == [False, True, False]
    assert "final_obs" not in infos
    with pytest.raises(ResetNeeded, match=r"rows \[1\] have no episode under way.*reset_mask"):
        env.step(env.action_space.sample())
    options = {"reset_mask": ended, "problem": 2}
    after, infos = env.reset(options=options)
    assert options == {"reset_mask": ended, "problem": 2}
    assert infos["_problem"].tolist() == [False, True, False]
    assert infos["problem"][1] == "aime/test/0/2"
    assert env.core.batch.decision.tolist() == [1, 0, 1]
    for row in (0, 2):
        assert data_equivalence(row_of(after, row), row_of(observation, row), exact=True)
    env.step(env.action_space.sample())


def test_disabled_row_restarts_like_same_step() -> None:
    """The random stream of a row goes on in either mode."""
    by_hand, by_itself = make(2, autoreset_mode="Disabled", budget=112), make(2, budget=112)
    by_hand.reset(seed=3)
    by_itself.reset(seed=3)
    by_hand.action_space.seed(3)
    ended = np.zeros(2, dtype=bool)
    while not ended.all():
        actions = by_hand.action_space.sample()
        observation, *_, terminated, truncated, _ = by_hand.step(actions)
        wanted, *_ = by_itself.step(actions)
        ended |= terminated | truncated
        if (terminated | truncated).any():
            observation, _ = by_hand.reset(options={"reset_mask": terminated | truncated})
        assert data_equivalence(observation, wanted, exact=True)


def test_episode_statistics_survive_a_masked_reset() -> None:
    env = RecordEpisodeStatistics(make(2, autoreset_mode="Disabled"))
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.reset(options={"reset_mask": np.array([True, False])})
    env.unwrapped.core.batch.texts.end[:] = 0  # type: ignore[attr-defined]
    *_, infos = env.step(env.action_space.sample())
    assert infos["episode"]["l"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "mask", [[True, False], np.array([1, 0]), np.array([True]), np.array([False, False]), None], ids=str
)
def test_wrong_reset_mask_raises(mask: Any) -> None:
    env = make(2, autoreset_mode="Disabled")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"reset_mask=.*dtype bool and shape \(2,\).*terminated \| truncated"):
        env.reset(options={"reset_mask": mask})


def test_first_reset_must_be_of_all() -> None:
    env = make(2, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match=r"\[True, False\] leaves rows out"):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"rows \[0, 1\]"):
        env.step(env.action_space.sample())


# --- Next step ---------------------------------------------------------------------------------------------------


def test_next_step_is_what_gymnasium_does() -> None:
    ours = make(2, autoreset_mode="NextStep")
    envs = [lambda: gymnasium.make(ENV, **SMALL) for _ in range(2)]
    theirs = SyncVectorEnv(envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert_near(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    ended, together = 0, 0
    actions = theirs.action_space
    actions.seed(0)
    for step in range(40):
        if step == 4:  # both end in this step, so the next one is nothing but resets
            for batch in (ours.core.batch, *(env.unwrapped.core.batch for env in theirs.envs)):  # type: ignore[attr-defined]
                batch.texts.end[:] = batch.texts.length + 4
        chosen = actions.sample()
        mine, other = ours.step(chosen), theirs.step(chosen)
        for one, two in zip(mine[:4], other[:4], strict=True):
            assert_near(one, two)
        ended += int((mine[2] | mine[3]).sum())
        together += bool((mine[2] | mine[3]).all())
        assert_near(mine[4]["n_tokens"], other[4]["n_tokens"])
    assert ended > 3 and together


@pytest.mark.parametrize(
    ("wrapper", "modes"),
    [
        (FlattenObservation, ("NextStep", "Disabled")),
        (lambda env: FilterObservation(env, ["slots", "context"]), ("NextStep", "Disabled")),
        (lambda env: TransformObservation(env, dict), ("NextStep", "Disabled")),
        (lambda env: NormalizeObservation(FlattenObservation(env)), ("NextStep",)),
        (NormalizeReward, ("NextStep", "SameStep", "Disabled")),
        (RecordEpisodeStatistics, ("NextStep", "SameStep", "Disabled")),
    ],
)
def test_gymnasiums_wrappers_for_vector_environments(wrapper: Any, modes: tuple[str, ...]) -> None:
    """As docs/libraries.md has them."""
    for mode in ("NextStep", "SameStep", "Disabled"):
        env = make(2, autoreset_mode=mode)
        if mode not in modes:
            with pytest.raises((ValueError, AssertionError)):  # older versions of Gymnasium say no word
                wrapper(env).reset(seed=0)
            continue
        env = wrapper(env)
        observation, _ = env.reset(seed=0)
        for _ in range(3):
            observation, *_ = env.step(env.action_space.sample())
        assert observation in env.observation_space or not isinstance(observation, np.ndarray)


# --- Length ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_episodes_can_be_cut_off(mode: str) -> None:
    """Unlike at the end of a text, no answer is scored."""
    env = gymnasium.make_vec(ENV, num_envs=2, max_episode_steps=2, autoreset_mode=mode, **SMALL)
    _, _ = env.reset(seed=0)
    cuts = []
    for _ in range(6):
        _, _, terminated, truncated, infos = env.step(env.action_space.sample())
        assert not terminated.any()
        cuts.append(truncated.all())
        if mode == "SameStep" and truncated.all():
            assert not infos["final_info"]["is_success"].any()
    assert cuts == ([False, True, False] * 2 if mode == "NextStep" else [False, True] * 3)
    with pytest.raises(ConfigError, match="max_episode_steps=0 is not allowed"):
        make(1, max_episode_steps=0)


def test_a_copy_begins_anew() -> None:
    env = make(2, max_episode_steps=7)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        with pytest.raises(ResetNeeded, match=r"rows \[0, 1\] have no episode under way"):
            other.step(env.action_space.sample())
        assert data_equivalence(other.reset(seed=4), make(2).reset(seed=4), exact=True)
        assert other._most_steps == 7


# --- Modes, seeds, mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["SameStep", "Disabled", "NextStep", *AutoresetMode])
def test_autoreset_mode_is_an_enum_everywhere(mode: str | AutoresetMode) -> None:
    env = KVEvictVectorEnv(ENV, 2, mode, **SMALL)
    assert env.autoreset_mode is env.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert "autoreset_mode" not in KVEvictVectorEnv.metadata


@pytest.mark.parametrize("mode", ["same_step", "", None, 3])
def test_other_autoreset_modes_raise(mode: Any) -> None:
    with pytest.raises(ConfigError, match=r"autoreset_mode=.* is not one of 'NextStep', 'SameStep', 'Disabled'"):
        KVEvictVectorEnv(ENV, 2, mode)


def test_seeds_are_one_a_row() -> None:
    env = make(3)
    env.reset(seed=5)
    assert env.np_random_seed == (5, 6, 7)
    env.reset(seed=[3, None, 4])
    assert env.np_random_seed == (3, 6, 4)
    assert len(env.np_random) == 3
    with pytest.raises(ConfigError, match="2 seeds came for num_envs=3"):
        env.reset(seed=[1, 2])


def test_problems_can_be_chosen_for_all_rows_or_each() -> None:
    env = make(2)
    assert env.reset(options={"problem": 3})[1]["problem"].tolist() == ["aime/test/0/3"] * 2
    assert env.reset(options={"problem": np.array([2, 0])})[1]["problem"].tolist() == ["aime/test/0/2", "aime/test/0/0"]
    with pytest.raises(ConfigError, match="3 problems came for num_envs=2"):
        env.reset(options={"problem": [0, 1, 2]})
    with pytest.raises(UnknownNameError, match=r"reset option 'mask'.*Known: problem, reset_mask"):
        env.reset(options={"mask": 1})


def test_action_masks_are_one_row_an_episode() -> None:
    env = make(3, action="slot", evict_every=1, n_sink=2)
    env.reset(seed=0)
    masks = env.action_masks()
    assert (masks.dtype, masks.shape) == (np.bool_, (3, 53))
    assert masks.sum(1).tolist() == [50] * 3


def test_bad_action_names_its_row() -> None:
    env = make(2)
    env.reset(seed=0)
    actions = env.action_space.sample()
    actions[1, 0, 0, 3] = np.nan
    with pytest.raises(ScoreError, match="episode 1, layer 0, KV head 0, slot 3 is NaN"):
        env.step(actions)
    with pytest.raises(ActionError, match=r"episode 0 has shape \(2, 56\)"):
        env.step(np.zeros((2, 2, 56)))
    with pytest.raises(ActionError, match="3 actions came for num_envs=2"):
        env.step(np.zeros((3, *env.single_action_space.shape)))  # type: ignore[misc]


def test_number_of_rows_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="num_envs=0 is not allowed"):
        KVEvictVectorEnv(ENV, 0)


def test_ansi_renders_every_row() -> None:
    env = make(2, render_mode="ansi")
    env.reset(seed=0, options={"problem": [0, 1]})
    frames = env.render()
    assert frames is not None
    assert ["aime/test/0/0" in str(frames[0]), "aime/test/0/1" in str(frames[1])] == [True, True]
    env.close()
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
