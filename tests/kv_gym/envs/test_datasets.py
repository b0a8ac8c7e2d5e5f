"""Datasets of Minari hold what an agent saw, did and got through Gymnasium; a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import small_env
from bad_agent import Bad

import kv_gym  # noqa: F401
from kv_gym.agents import load_agent
from kv_gym.envs import datasets
from kv_gym.envs.acting import agent_action
from kv_gym.envs.datasets import Recipe, Workshop, metadata_of, own_datasets
from kv_gym.errors import ConfigError, KVGymError

OPTIONS = {name: value for name, value in small_env.SMALL.items() if name != "n_problems"} | {"mode": "replay"}
ID = "kvevict-aime/small-v0"


class Silent:
    """Progress that nobody watches; can stop a run."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.left, self.stages = stop_after, {}  # type: ignore[var-annotated]

    def begin(self, stage: str, total: int) -> None:
        self.stage = stage
        self.stages[stage] = total

    def advance(self, n: int) -> None:
        if self.stage == "episodes" and self.left is not None:
            self.left -= n
            if self.left <= 0:
                raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def recipe(agent: str = "rkv", episodes: int = 5, **options: Any) -> Recipe:
    return Recipe(ID, small_env.ENV, load_agent(agent), episodes, OPTIONS | options, seed=7)


def close(one: Any, other: Any) -> None:
    """Equal but for the rounding of other widths; `is_success` and counts are equal."""
    np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def same(one: Any, other: Any) -> None:
    for key, value in one.observations.items():
        close(value, other.observations[key])
    for key, value in one.infos["reward_terms"].items():
        close(value, other.infos["reward_terms"][key])
    for key in one.infos.keys() - {"reward_terms"}:
        np.testing.assert_array_equal(one.infos[key], other.infos[key])
    assert (one.actions == other.actions).mean() > 0.99  # ties of rounding
    close(one.rewards, other.rewards)
    np.testing.assert_array_equal(one.terminations, other.terminations)
    np.testing.assert_array_equal(one.truncations, other.truncations)


def test_a_dataset_holds_what_the_single_environment_shows() -> None:
    Workshop(recipe(), num_envs=2).make(Silent())
    dataset = minari.load_dataset(ID)
    env, agent = dataset.recover_environment(), load_agent("rkv")
    assert dataset.total_episodes == 5 and dataset.observation_space == env.observation_space
    for i, episode in enumerate(dataset.iterate_episodes()):
        meta = next(iter(dataset.storage.get_episode_metadata([i])))
        assert meta["seed"] == 7 + i and meta["options"] == {"problem": i}
        observation, info = env.reset(seed=meta["seed"], options={"problem": i})
        for step in range(len(episode)):
            for name, value in observation.items():
                close(episode.observations[name][step], value)
            assert (episode.actions[step] == agent_action(env, agent)).mean() > 0.99  # ties of rounding
            observation, reward, terminated, truncated, info = env.step(episode.actions[step])
            close(episode.rewards[step], reward)
            assert episode.terminations[step] == terminated and episode.truncations[step] == truncated
            close(episode.infos["reward_terms"]["loss_spike"][step + 1], info["reward_terms"]["loss_spike"])
        assert terminated or truncated
        assert episode.infos["is_success"][-1] == info["is_success"]
    made = metadata_of(ID)["kv_gym"]
    returns = [float(np.sum(episode.rewards)) for episode in dataset.iterate_episodes()]
    assert made["returns"] == pytest.approx({"mean": np.mean(returns), "lowest": min(returns), "highest": max(returns)})
    assert made["agent"].startswith("kv_agents.heuristics.rkv:RKV(") and len(made["agent_sha256"]) == 64


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_goes_on(stop_after: int, folder: Path) -> None:
    """Nothing is played twice, nothing lost, and the dataset is that of a run which was not stopped."""
    Workshop(recipe(), num_envs=5).make(Silent())
    whole = list(minari.load_dataset(ID).iterate_episodes())
    minari.delete_dataset(ID)
    workshop = Workshop(recipe(), num_envs=2)
    with pytest.raises(KeyboardInterrupt):
        workshop.make(Silent(stop_after))
    assert not datasets.dataset_path(ID).exists()
    kept = len(list(workshop.folder.glob("*.npz")))
    assert kept >= stop_after
    progress = Silent()
    Workshop(recipe(), num_envs=2).make(progress)
    assert progress.stages["episodes"] == 5 - kept and not workshop.folder.exists()
    again = list(minari.load_dataset(ID).iterate_episodes())
    assert len(again) == len(whole) == 5
    for one, other in zip(whole, again, strict=True):
        same(one, other)


def test_a_run_stopped_while_it_puts_together_leaves_no_half_of_a_dataset(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_episode", stop)
        with pytest.raises(KeyboardInterrupt):
            Workshop(recipe(episodes=2)).make(Silent())
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert own_datasets() == [] and not list(folder.rglob("data"))
    progress = Silent()
    Workshop(recipe(episodes=2)).make(progress)
    assert progress.stages["episodes"] == 0 and own_datasets() == [ID]


def test_episodes_of_other_settings_are_not_taken() -> None:
    folders = {
        Workshop(made).folder
        for made in (
            recipe(), recipe("snapkv"), recipe(budget=56), recipe(episodes=4), Recipe(ID, small_env.ENV,
            load_agent("rkv", lam=0.2), 5, OPTIONS, 7), Recipe(ID, small_env.ENV, load_agent("rkv"), 5, OPTIONS, 8),
        )
    }  # fmt: skip
    assert len(folders) == 6
    assert Workshop(recipe(), num_envs=3).folder in folders


def test_hindsight_stays_out(folder: Path) -> None:
    """Golden plays, and nothing of what it knows is in the file, nor the answer."""
    Workshop(recipe("golden", episodes=2)).make(Silent())
    dataset = minari.load_dataset(ID)
    keys: list[str] = []

    def collect(infos: dict[str, Any]) -> None:
        for name, value in infos.items():
            keys.append(name)
            if isinstance(value, dict):
                collect(value)

    collect(dataset[0].infos)
    assert keys and not {"hindsight", "golden", "answer"} & set(keys)
    env = dataset.recover_environment()
    _, info = env.reset(seed=0)
    assert "golden" not in info["hindsight"]


def test_mistakes_are_told(folder: Path) -> None:
    for name in ("no version", "a-b", "../out-v0", "/tmp/out-v0", "-v0", "", "data/x-v0", "mine/data/x-v0", "m/x-v0"):
        with pytest.raises(ConfigError, match="is no id of a dataset"):
            Recipe(name, small_env.ENV, load_agent("rkv"), 2)
    with pytest.raises(ConfigError, match="action='mask'"):
        recipe(action="mask")
    with pytest.raises(ConfigError, match="without sampling"):
        recipe(temperature=0.5)
    with pytest.raises(ConfigError, match="there is no dataset 'none-v0'"):
        metadata_of("none-v0")
    with pytest.raises(ConfigError, match="can be played"):
        Workshop(recipe(budget=900, max_new_tokens=1500)).make(Silent())
    Workshop(recipe(episodes=1)).make(Silent())
    with pytest.raises(ConfigError, match="Use another version"):
        recipe()
    with pytest.raises(ConfigError, match="is no folder of datasets"):
        Recipe(f"{ID}/inside-v0", small_env.ENV, load_agent("rkv"), 2, OPTIONS)
    (folder / "plain").write_text("")
    with pytest.raises(ConfigError, match="is no folder of datasets"):
        Recipe("plain/x-v0", small_env.ENV, load_agent("rkv"), 2, OPTIONS)
    for options, message in ({"hindsight": True}, "a dataset shows none"), ({"seed": 2**64}, "seed="):
        with pytest.raises(ConfigError, match=message):
            seed = options.pop("seed", 0)
            Recipe("mine/x-v0", small_env.ENV, load_agent("rkv"), 2, OPTIONS | options, seed)
    with pytest.raises(ConfigError, match="evicts nothing"):
        Recipe("mine/x-v0", small_env.ENV, load_agent("full"), 2, OPTIONS)
    data = datasets.dataset_path(ID) / "data" / "metadata.json"
    told = json.loads(data.read_text())
    del told["kv_gym"]
    data.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="was not made by"):
        metadata_of(ID)
    assert own_datasets() == []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", "ValueError: no idea"),
        ("leaves", "SystemExit"),
        ("touches", "values"),
        ("nan", r"is NaN \(448 in all\)"),
    ],
)
def test_an_agent_that_fails_or_touches_makes_no_dataset(what: str, message: str) -> None:
    with pytest.raises(KVGymError, match=message):
        Workshop(Recipe(ID, small_env.ENV, Bad(what), 1, OPTIONS)).make(Silent())
    assert own_datasets() == []


def test_agents_that_read_many_queries_and_dataclasses_play() -> None:
    for name, agent in ("mine/a-v0", load_agent("snapkv", n_obs=40)), ("mine/b-v0", Bad()):
        Workshop(Recipe(name, small_env.ENV, agent, 1, OPTIONS | {"budget": 64})).make(Silent())
    assert own_datasets() == ["mine/a-v0", "mine/b-v0"]


def test_two_makers_of_one_id(folder: Path) -> None:
    """The second is told before it plays; an episode that was torn is played again."""
    one, other = Workshop(recipe(episodes=2)), Workshop(recipe("streaming", episodes=2))
    one.folder.mkdir(parents=True)
    (one.folder / "000001.npz").write_bytes(b"")
    one.make(Silent())
    with pytest.raises(ConfigError, match="there is a dataset"):
        other.make(Silent())
    assert metadata_of(ID)["algorithm_name"] == "rkv" and minari.load_dataset(ID).total_episodes == 2


def test_problems_whose_protected_prompt_fills_the_budget_are_left_out() -> None:
    options = OPTIONS | {"protect_prompt": True, "budget": 64}
    Workshop(Recipe(ID, small_env.ENV, load_agent("rkv"), 8, options)).make(Silent())
    assert 0 < minari.load_dataset(ID).total_episodes < 8


def test_without_minari_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(ConfigError, match=r"pip install 'kv-gym\[minari\]'"):
        recipe()


def test_spaces_are_the_environments() -> None:
    Workshop(recipe(episodes=1, granularity="token")).make(Silent())
    env = gymnasium.make(small_env.ENV, **(OPTIONS | {"granularity": "token"}))
    assert minari.load_dataset(ID).action_space == env.action_space
