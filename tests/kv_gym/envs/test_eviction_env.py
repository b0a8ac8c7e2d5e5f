"""The single environment: Gymnasium's contract, the engine behind it, and the mistakes of its users."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from small_env import ENV, FORMS, SMALL, Offline
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.logger import configure

import kv_gym  # noqa: F401
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.envs.eviction_env import KVEvictEnv
from kv_gym.errors import (
    ActionError,
    BudgetError,
    ConfigError,
    ReferenceFileError,
    ScoreError,
    UndecidedError,
    UnknownNameError,
)
from kv_gym.registry import env_ids

VARIANTS: dict[str, dict[str, Any]] = {
    "replay": {"mode": "replay"},
    "sampled": {"temperature": 1.0, "budget": 24, "max_new_tokens": 48},
    "no shadow": {"shadow": False},
    "keys and values": {"observe_kv": True},
    "hindsight": {"hindsight": True},
    "protected": {"n_sink": 4, "n_recent": 12, "budget": 80, "protect_prompt": True},
}
INFO = ["is_success", "reward_terms", "n_illegal", "n_tokens", "kv_bytes", "problem", "family", "hindsight"]


def make(**options: Any) -> KVEvictEnv:
    env = gymnasium.make(ENV, **(SMALL | options)).unwrapped
    assert isinstance(env, KVEvictEnv)
    return env


def finish(env: gymnasium.Env, seed: int | None = 0) -> list[tuple[Any, ...]]:
    """Play an episode at random; return what reset and each step returned."""
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    steps: list[tuple[Any, ...]] = [(observation, 0.0, False, False, info)]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(env.action_space.sample()))
    return steps


def outline(value: Any) -> Any:
    """Keys, types and shapes of an info."""
    if isinstance(value, dict):
        return {key: outline(part) for key, part in value.items()}
    return (value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value)


# --- Checkers ----------------------------------------------------------------------------------------------------

CHECKED = [pytest.param(env_id, {}, id=env_id) for env_id in env_ids()]
CHECKED += [
    pytest.param(ENV, options, id=name)
    for name, options in (FORMS | VARIANTS).items()
    if name not in ("scores-head", "sampled")
]  # the default; a new reference for each of many seeds


@pytest.mark.parametrize(("env_id", "options"), CHECKED)
def test_gymnasium_checker_has_no_complaint(env_id: str, options: dict[str, Any], offline: Offline) -> None:
    options = SMALL | options | offline(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, **options).unwrapped)


SPACES = {*FORMS, "keys and values"}  # what SB3 looks at


@pytest.mark.parametrize(("env_id", "options"), [case for case in CHECKED if case.id in {*env_ids(), *SPACES}])
def test_sb3_checker_has_no_complaint(env_id: str, options: dict[str, Any], offline: Offline) -> None:
    options = SMALL | options | offline(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Advice on arrays that are no vectors, of which it takes those with three axes for images; they have the axes
        # they have.
        parts = "(slots|keys|values|protected)"
        warnings.filterwarnings("ignore", message=f"Your observation {parts} has an unconventional shape")
        warnings.filterwarnings("ignore", message=f"It seems that your observation.* {parts} is an image")
        warnings.filterwarnings("ignore", message="The minimal resolution|Treating image")
        sb3_check_env(gymnasium.make(env_id, **options).unwrapped)


@pytest.mark.parametrize("env_id", env_ids())
def test_defaults_play_to_the_end(env_id: str, offline: Offline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id, n_problems=1, **offline(env_id))
        steps = finish(env)
    assert all(step[0] in env.observation_space for step in steps)


def test_ppo_learns_on_it(tmp_path: Path) -> None:
    env = make(granularity="token")
    agent = PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, n_epochs=1, policy_kwargs={"net_arch": [4]})
    agent.set_logger(configure(str(tmp_path), []))
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(8)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))


# --- Contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_spec_survives_json(form: str) -> None:
    env = gymnasium.make(ENV, **(SMALL | FORMS[form]))
    assert env.spec is not None
    text = env.spec.to_json()
    spec = EnvSpec.from_json(json.dumps(json.loads(text)))
    assert spec == env.spec
    again = gymnasium.make(spec)
    assert again.action_space == env.action_space
    assert again.observation_space == env.observation_space
    assert data_equivalence(env.reset(seed=3), again.reset(seed=3), exact=True)


@pytest.mark.parametrize("options", [*FORMS.values(), *VARIANTS.values()], ids=[*FORMS, *VARIANTS])
def test_two_copies_agree(options: dict[str, Any]) -> None:
    one, other = make(**options), make(**options)
    assert data_equivalence(one.reset(seed=5), other.reset(seed=5), exact=True)
    one.action_space.seed(0)
    for _ in range(3):
        action = one.action_space.sample()
        assert data_equivalence(one.step(action), other.step(action), exact=True)
    assert data_equivalence(one.reset(), other.reset(), exact=True)


@pytest.mark.parametrize("name", ["scores-head", "mask-layer", "replay", "hindsight", "keys and values"])
def test_every_step_fits_its_spaces(name: str) -> None:
    env = make(**({"budget": 100} | (FORMS | VARIANTS)[name]))
    steps = finish(env)
    assert len(steps) > 3
    for observation, reward, terminated, truncated, info in steps:
        assert observation in env.observation_space
        assert all(observation[key].dtype == space.dtype for key, space in env.observation_space.items())
        assert [type(reward), type(terminated), type(truncated)] == [float, bool, bool]
        assert list(info) == INFO
        assert outline(info) == outline(steps[0][4])
        assert np.isfinite(reward)


def test_observation_holds_nothing_else() -> None:
    assert set(make().reset(seed=0)[0]) == {"slots", "context", "protected"}


@pytest.mark.parametrize("form", FORMS)
def test_observation_shapes_follow_the_granularity(form: str) -> None:
    env = make(**FORMS[form])
    shape = env.core.llm.shape
    lead = {"head": (shape.n_layers, shape.n_kv_heads), "layer": (shape.n_layers,), "token": ()}[env.core.config.shared]
    observation, _ = env.reset(seed=0)
    assert observation["protected"].shape == (*lead, env.core.config.slots)
    assert observation["slots"].shape[:-1] == (*lead, env.core.config.slots)


def test_shared_observation_is_the_mean_over_heads() -> None:
    per_head, _ = make().reset(seed=0)
    for granularity, axes in (("layer", 1), ("token", (0, 1))):
        shared, _ = make(granularity=granularity).reset(seed=0)
        np.testing.assert_allclose(shared["slots"], per_head["slots"].mean(axes), atol=1e-5)


def test_observed_keys_and_values_are_the_cache() -> None:
    env = make(observe_kv=True)
    observation, _ = env.reset(seed=0)
    cache = env.core.batch.cache
    np.testing.assert_array_equal(observation["keys"], cache.keys[:, 0].numpy())
    np.testing.assert_array_equal(observation["values"], cache.values[:, 0].numpy())
    assert not np.shares_memory(observation["keys"], cache.keys.numpy())


@pytest.mark.parametrize("form", FORMS)
def test_protected_slots_survive_any_action(form: str) -> None:
    env = make(n_sink=4, n_recent=6, budget=20, **FORMS[form])
    env.reset(seed=1)
    env.action_space.seed(1)
    batch, budget = env.core.batch, 20
    for _ in range(4):
        length = int(batch.texts.length[0])
        env.step(env.action_space.sample())
        kept = batch.cache.positions[:, 0, :, :budget]
        assert (kept[..., :4] == torch.arange(4)).all()
        assert (kept[..., -6:] == torch.arange(length - 6, length)).all()


def test_env_and_engine_give_the_same_episode() -> None:
    env = make()
    env.reset(seed=2)
    core = env.core
    engine = EpisodeBatch(core.llm, core.config, 1)
    engine.reset([0], core.batch.texts.references, core.batch.seeds.tolist())  # type: ignore[arg-type]
    env.action_space.seed(2)
    for _ in range(8):
        action = env.action_space.sample()
        _, reward, terminated, truncated, _ = env.step(action)
        result = engine.step(torch.as_tensor(action)[None])
        assert reward == float(result.reward)
        assert (terminated, truncated) == (bool(result.terminated), bool(result.truncated))
        if terminated or truncated:
            break
    assert core.batch.record(0) == engine.record(0)


def test_step_counts_what_was_ignored() -> None:
    env = make(action="mask", granularity="token")
    observation, info = env.reset(seed=0)
    assert info["n_illegal"] == 0
    assert env.step(np.ones(56, dtype=np.int8))[4]["n_illegal"] == 56 - 4
    assert env.step(np.zeros(56, dtype=np.int8))[4]["n_illegal"] == 0
    assert env.step(observation["protected"])[4]["n_illegal"] == 4
    _, info = env.reset()
    assert info["n_illegal"] == 0
    assert info["reward_terms"] == {"correct": 0, "loss_spike": 0, "attention_spike": 0}


def test_action_masks_are_the_unprotected_slots() -> None:
    env = make(action="slot", evict_every=1, n_sink=3, n_recent=2)
    observation, _ = env.reset(seed=0)
    masks = env.action_masks()
    assert (masks.dtype, masks.shape) == (np.bool_, (53,))
    assert masks.tolist() == [False] * 3 + [True] * 48 + [False] * 2
    assert (observation["protected"] == ~masks).all()
    assert env.step(int(np.flatnonzero(masks)[0]))[4]["n_illegal"] == 0
    assert env.step(52)[4]["n_illegal"] == 1


@pytest.mark.parametrize("score", [1.0, 0.5])
def test_success_and_reward_come_at_the_end(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_gym.engine.episodes.grade", lambda text, answer, graded: score)
    env = make(w_correct=3.0, w_loss=0.5, w_attention=0.25)
    *before, last = finish(env)
    assert [step[4]["is_success"] for step in before] == [False] * len(before)
    assert last[4]["is_success"] is (score == 1)
    for _, reward, _, _, info in [*before[1:], last]:
        terms = info["reward_terms"]
        assert reward == pytest.approx(3 * terms["correct"] - terms["loss_spike"] / 2 - terms["attention_spike"] / 4)
    assert last[4]["reward_terms"]["correct"] == score
    assert env.reset()[1]["is_success"] is False


def test_an_answer_without_a_verdict_is_no_success(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def undecided(text: str, answer: str, graded: str) -> float:
        raise UndecidedError("comparing took over 2 s")

    monkeypatch.setattr("kv_gym.engine.episodes.grade", undecided)
    *_, (_, _, terminated, truncated, info) = finish(make(w_correct=3.0))
    assert (terminated or truncated) and info["is_success"] is False and info["reward_terms"]["correct"] == 0
    assert "comparing took over 2 s" in caplog.text


def test_stop_token_terminates_and_length_truncates() -> None:
    env = make()
    env.reset(seed=0)
    env.core.batch.texts.stop_ids = torch.arange(
        env.core.llm.model.config.vocab_size
    )  # whatever it writes next stops it
    assert env.step(env.action_space.sample())[2:4] == (True, False)
    env.reset(seed=0)
    env.core.batch.texts.stop_ids = torch.tensor([-1])
    env.core.batch.texts.end[0] = env.core.batch.texts.length[0] + 4
    assert env.step(env.action_space.sample())[2:4] == (False, True)


def test_info_describes_problem_and_cache() -> None:
    env = make()
    _, info = env.reset(seed=0, options={"problem": 1})
    shape = env.core.llm.shape
    assert info["problem"] == "aime/test/0/1"
    assert info["family"] == "ledger"
    assert info["kv_bytes"] == 2 * 4 * shape.n_layers * shape.n_kv_heads * shape.head_dim * 56
    assert info["hindsight"] == {"answer": env.core.problems.problem(1).answer}
    assert info["n_tokens"] == 57 - env.core.batch.texts.references[0].n_prompt  # type: ignore[union-attr]


def test_hindsight_holds_golden_scores_and_observation_does_not_change() -> None:
    plain, wise = make(), make(hindsight=True)
    observation, _ = plain.reset(seed=0)
    same, info = wise.reset(seed=0)
    assert data_equivalence(observation, same, exact=True)
    golden = info["hindsight"]["golden"]
    assert (golden.dtype, golden.shape) == (np.float32, wise.action_space.shape)
    assert golden.min() >= 0 and 0 < golden.max() <= 1
    assert not data_equivalence(golden, wise.step(golden)[4]["hindsight"]["golden"])


# --- Problems and seeds ------------------------------------------------------------------------------------------


def test_seed_decides_the_problems_to_come() -> None:
    def drawn(seed: int) -> list[tuple[str, int]]:
        env = make(n_problems=4)
        first = env.reset(seed=seed)[1]["problem"], int(env.core.batch.seeds[0])
        return [first, *((env.reset()[1]["problem"], int(env.core.batch.seeds[0])) for _ in range(5))]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len({problem for problem, _ in drawn(0)}) > 1
    assert len({seed for _, seed in drawn(0)}) == 6


def test_chosen_problem_leaves_the_stream_alone() -> None:
    env = make(n_problems=4)
    env.reset(seed=0)
    drawn = env.reset()[1]["problem"]
    env.reset(seed=0, options={"problem": 3})
    assert env.reset()[1]["problem"] == drawn


def test_unplayable_problems_are_passed_over() -> None:
    """The prompts of problems 0 and 1 are longer than 40 tokens."""
    env = make(n_problems=4, max_prompt_tokens=40)
    lengths = [len(env.core.llm.encode_prompt(env.core.problems.problem(i).prompt)) for i in range(4)]
    assert [length <= 40 for length in lengths] == [False, False, True, True]
    for seed in range(6):
        start = int(np.random.default_rng(seed).integers(4))
        assert env.reset(seed=seed)[1]["problem"] == f"aime/test/0/{max(start, 2)}"
    with pytest.raises(ConfigError, match=r"aime/test/0/0 has a prompt of 64.*max_prompt_tokens=40.*Choose another"):
        env.reset(options={"problem": 0})


def test_no_playable_problem_raises() -> None:
    env = make(n_problems=3, max_prompt_tokens=8)
    with pytest.raises(ConfigError, match=r"none of the 3 problems.*max_prompt_tokens=8 .*raise max_prompt_tokens"):
        env.reset(seed=0)


# --- Mistakes ----------------------------------------------------------------------------------------------------


def test_budget_beyond_every_text_raises() -> None:
    with pytest.raises(ConfigError, match=r"budget=400 .*needs texts of 412 .*allow 256\. Use budget <= 244 or raise"):
        make(budget=400)


def test_unknown_model_raises() -> None:
    with pytest.raises(
        UnknownNameError, match=r"model 'nobody/nothing'.*neither embedded \(tiny, tiny-domains\).*Check the name"
    ):
        make(model="nobody/nothing")


def test_unknown_problem_source_raises() -> None:
    with pytest.raises(UnknownNameError, match=r"problem source 'aimee'\. Did you mean 'aime'"):
        make(problems="aimee")


def test_unknown_render_mode_raises() -> None:
    with pytest.raises(ConfigError, match=r"render_mode='hologram' is not one of None, rgb_array, human, ansi"):
        KVEvictEnv(ENV, render_mode="hologram")


def test_prompt_that_fills_the_budget_raises() -> None:
    env = make(protect_prompt=True)
    with pytest.raises(BudgetError, match=r"budget=52 .*aime/test/0/0: its prompt of 64 slots.*protect_prompt=False"):
        env.reset(seed=0, options={"problem": 0})


def test_damaged_reference_file_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path))
    options = {"n_problems": 1, "budget": 24, "max_new_tokens": 48}
    make(**options).reset(seed=0)
    (file,) = tmp_path.rglob("*.safetensors")
    content = file.read_bytes()
    for damaged in (b"\xff" * 500, b"", content[:-40], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(ReferenceFileError, match=f"{file.name} is damaged.*must match the hash.*Delete the file"):
            make(**options).reset(seed=0)
    file.unlink()
    make(**options).reset(seed=0)


def test_nan_score_raises_and_leaves_the_episode_alone() -> None:
    env = make()
    env.reset(seed=0)
    action = np.zeros(env.core.shape, dtype=np.float32)
    bad = action.copy()
    bad[1, 0, 7] = np.nan
    with pytest.raises(ScoreError, match=r"episode 0, layer 1, KV head 0, slot 7 is NaN \(1 in all\).*must be numbers"):
        env.step(bad)
    after = env.step(action)
    env.reset(seed=0)
    assert data_equivalence(after, env.step(action), exact=True)


def test_wrong_shape_raises() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ActionError, match=r"shape \(56,\).*takes shape \(\d+, \d+, 56\) \[L, H_kv, S\]"):
        env.step(np.zeros(56, dtype=np.float32))


def test_action_masks_of_other_actions_raise() -> None:
    env = make(action="mask")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"action_masks.*action='mask' has none.*obs\['protected'\]"):
        env.action_masks()


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"problem": 2}, ConfigError, "problem=2 is not in this env; its problems are 0 to 1"),
    ({"problem": -1}, ConfigError, "problem=-1"),
    ({"problem": "aime/test/0/1"}, ConfigError, "problem='aime/test/0/1'"),
    ({"probelm": 1}, UnknownNameError, "reset option 'probelm'. Did you mean 'problem'"),
])  # fmt: skip
def test_wrong_reset_option_raises(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().reset(seed=0, options=options)


def test_step_without_episode_raises() -> None:
    env = make()
    with pytest.raises(ResetNeeded, match=r"Call env\.reset"):
        env.step(env.action_space.sample())
    finish(env)
    with pytest.raises(ResetNeeded, match="it has ended"):
        env.step(env.action_space.sample())
    env.reset()
    env.step(env.action_space.sample())


# --- The rest ----------------------------------------------------------------------------------------------------


def test_pickle_rebuilds_from_the_arguments() -> None:
    env = make(budget=40)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.core.config == env.core.config
    assert data_equivalence(env.reset(seed=0), copy.reset(seed=0), exact=True)


def test_close_may_be_called_twice_and_reset_after_it() -> None:
    env = make()
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    env.reset(seed=0)
