"""The adapter to stable-baselines3, the policies on it, and that PPO climbs where it can."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from kv_agents.learned import checkpoints
from kv_agents.training.course import Course
from kv_agents.training.ppo import PPORecipe, PPOTrainer
from kv_agents.training.sb3 import SlotPolicy, SlotVecEnv, slot_scores
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

from kv_gym.engine.features import COLUMNS
from kv_gym.envs.vector_env import KVEvictVectorEnv
from kv_gym.errors import ConfigError

SMALL = {
    "model": "tiny", "budget": 24, "evict_every": 8, "max_new_tokens": 120, "n_problems": 8, "mode": "replay",
    "shadow": False,
}  # fmt: skip


def make_env(num_envs: int = 3, **changes: object) -> SlotVecEnv:
    return SlotVecEnv(KVEvictVectorEnv("KVEvict-AIME-v0", num_envs, **{**SMALL, **changes}))


def test_adapter_gives_what_the_vector_environment_gives() -> None:
    ours, theirs = KVEvictVectorEnv("KVEvict-AIME-v0", 3, **SMALL), make_env()
    theirs.seed(5)
    first, _ = ours.reset(seed=5)
    other = theirs.reset()
    draw = np.random.default_rng(0)
    ends = 0
    for _ in range(30):
        assert all(np.array_equal(first[name], other[name]) for name in first)
        actions = draw.uniform(-1, 1, (3, *theirs.action_space.shape)).astype(np.float32)
        first, reward, terminated, truncated, infos = ours.step(actions)
        other, other_reward, ended, rows = theirs.step(actions)
        assert np.allclose(reward, other_reward) and other_reward.dtype == np.float32
        assert np.array_equal(ended, terminated | truncated)
        for row in np.flatnonzero(ended):
            ends += 1
            assert rows[row]["TimeLimit.truncated"] == bool(truncated[row] and not terminated[row])
            assert np.array_equal(rows[row]["terminal_observation"]["slots"], infos["final_obs"][row]["slots"])
            assert rows[row]["is_success"] == infos["final_info"]["is_success"][row]
        for row in np.flatnonzero(~ended):
            assert rows[row]["reward_terms"]["loss_spike"] == infos["reward_terms"]["loss_spike"][row]
            assert rows[row]["problem"] == infos["problem"][row] and not rows[row]["is_success"]
        assert not any("hindsight" in row for row in rows)
    assert ends >= 3


def test_options_reach_the_next_reset() -> None:
    env = make_env()
    env.set_options([{"problem": 2}, {"problem": 0}, {}])
    env.seed(0)
    env.reset()
    names = [info["problem"] for info in env.reset_infos]
    assert names[:2] == ["aime/train/0/2", "aime/train/0/0"]
    env.seed(0)
    env.reset()  # options hold for one reset
    assert [info["problem"] for info in env.reset_infos][2] == names[2]
    assert [info["problem"] for info in env.reset_infos] != names
    env.set_options({"problems": 2})
    with pytest.raises(ConfigError, match="'problems' is not an option of a row"):
        env.reset()


def test_wrapped_environments_and_stable_baselines3_own_wrappers() -> None:
    inner = KVEvictVectorEnv("KVEvict-AIME-v0", 2, granularity="token", render_mode="rgb_array", **SMALL)
    env = VecNormalize(VecFrameStack(SlotVecEnv(RecordEpisodeStatistics(inner)), n_stack=2))
    observation = env.reset()
    assert isinstance(observation, dict) and observation["protected"].shape == (2, 2 * 32)
    for _ in range(12):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    assert env.render().shape[-1] == 3  # type: ignore[union-attr]
    assert len(env.get_images()) == 2 and env.get_images()[0].shape == (720, 1280, 3)  # type: ignore[union-attr]


def test_adapter_needs_rows_that_start_anew() -> None:
    with pytest.raises(ConfigError, match="SameStep"):
        SlotVecEnv(KVEvictVectorEnv("KVEvict-AIME-v0", 2, autoreset_mode="Disabled", **SMALL))


def told_of_weights(train: Callable[[], object]) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train()
    return ["MultiInputActorCriticPolicy has some of its own" in str(found.message) for found in caught].count(True)


def test_a_policy_with_weights_for_each_slot_is_warned_of_once(tmp_path: Path) -> None:
    """On whatever environment it trains, also one that another policy has seen, and never because of another one."""

    def made(policy: Any, env: Any) -> PPO:
        return PPO(policy, env, n_steps=2, batch_size=6, n_epochs=1, seed=0)

    env = VecMonitor(make_env(budget=32))
    ours = made(SlotPolicy, env)
    assert told_of_weights(lambda: ours.learn(12)) == 0
    ours.save(tmp_path / "ours")
    again = PPO.load(tmp_path / "ours", env=make_env(budget=32))
    assert told_of_weights(lambda: again.learn(12)) == 0
    assert told_of_weights(lambda: made("MultiInputPolicy", make_env(budget=32)).learn(12)) == 1
    assert told_of_weights(lambda: made("MultiInputPolicy", make_env(budget=32, granularity="token")).learn(12)) == 0


def test_policy_does_not_care_in_which_order_slots_come() -> None:
    env = make_env()
    model = PPO(SlotPolicy, env, n_steps=4, batch_size=4, seed=0)
    observation = {name: torch.as_tensor(values) for name, values in env.reset().items()}  # type: ignore[union-attr]
    actions, values, _ = model.policy(observation, deterministic=True)
    order = torch.randperm(observation["slots"].shape[3])
    shuffled = {**observation, "slots": observation["slots"][:, :, :, order]}
    other_actions, other_values, _ = model.policy(shuffled, deterministic=True)
    torch.testing.assert_close(other_actions, actions[..., order], atol=1e-5, rtol=0)
    torch.testing.assert_close(other_values, values, atol=1e-5, rtol=0)


def test_policy_evaluates_the_actions_it_took() -> None:
    env = make_env()
    model = PPO(SlotPolicy, env, n_steps=4, batch_size=4, seed=0)
    observation = {name: torch.as_tensor(values) for name, values in env.reset().items()}  # type: ignore[union-attr]
    actions, values, log_prob = model.policy(observation)
    assert actions.shape == (3, *env.action_space.shape)
    again, same, entropy = model.policy.evaluate_actions(observation, actions)
    torch.testing.assert_close(same, log_prob)
    torch.testing.assert_close(again, values)
    mean = slot_scores(model.policy.scorer, observation)
    std = float(model.policy.log_std.detach().exp())
    expected = torch.distributions.Normal(mean, std).log_prob(actions.flatten(1)).sum(-1)
    torch.testing.assert_close(log_prob, expected)
    assert entropy is not None


@pytest.fixture(scope="module")
def course() -> Course:
    from dataclasses import replace

    made = Course("KVEvict-AIME-v0", {"evict_every": 8, "max_new_tokens": 120}, (), 8, 4)
    made.validation = [replace(reference, correct=True) for reference in made.validation]
    return made


@pytest.mark.parametrize("action", ["scores", "slot"])
def test_training_exports_an_agent_and_resumes(action: str, course: Course, tmp_path: Path) -> None:
    recipe = PPORecipe(
        action=action, budgets=(24,), steps=96, width=4, horizon=8, batch=16, epochs=1, evaluate_every=64, n_train=8,
        n_validation=4,
    )  # type: ignore[arg-type]  # fmt: skip
    trainer = PPOTrainer(course, recipe, tmp_path)
    trainer.run()
    trainer.finish(tmp_path / "ppo.safetensors")
    _, info = checkpoints.load(tmp_path / "ppo.safetensors")
    assert info.method == "ppo" and info.evict_every == (1 if action == "slot" else 8)
    assert info.curve[0]["step"] == 0 and info.curve[-1]["step"] >= 96
    assert all(0 <= row["generate_correct"] <= 1 for row in info.curve)
    assert (tmp_path / "progress.csv").read_text().count("\n") >= 2
    again = PPOTrainer(course, recipe, tmp_path)
    again.resume()
    assert again.model.num_timesteps == trainer.model.num_timesteps
    for name, values in again.model.policy.state_dict().items():
        assert torch.equal(values, trainer.model.policy.state_dict()[name]) or name.startswith("scorer")


def test_ppo_learns_to_keep_what_it_is_paid_for() -> None:
    """A toy reward with a known best policy: the share of the newest unprotected slots among the kept ones."""
    from stable_baselines3.common.vec_env import VecEnvWrapper

    class PaidForAge(VecEnvWrapper):
        def reset(self):
            self.seen = self.venv.reset()
            return self.seen

        def step_async(self, actions):
            self.actions = actions
            self.venv.step_async(actions)

        def step_wait(self):
            age = self.seen["slots"][..., COLUMNS.index("age")]
            reward = -(self.actions * (age - age.mean(-1, keepdims=True))).mean((1, 2, 3))
            self.seen, _, ended, infos = self.venv.step_wait()
            return self.seen, reward.astype(np.float32), ended, infos

    env = PaidForAge(make_env(num_envs=8))
    model = PPO(SlotPolicy, env, n_steps=8, batch_size=64, learning_rate=1e-2, gamma=0.0, seed=0)
    model.policy.scorer.standardise(torch.as_tensor(env.reset()["slots"]))
    history = []
    for _ in range(12):
        model.learn(64, reset_num_timesteps=False)
        history.append(float(model.rollout_buffer.rewards.mean()))
    assert np.mean(history[-3:]) > np.mean(history[:2]) + 0.02, history
