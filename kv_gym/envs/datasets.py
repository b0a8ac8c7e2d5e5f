"""Episodes of an agent as a Minari dataset, for offline RL.

Each episode is kept in a file as it ends; the dataset is put together of those and renamed into place, so a run that
is stopped goes on, and a dataset is there whole or not at all. Minari: https://minari.farama.org.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.benchmark import warn_of_unnamed
from kv_gym.bench.plan import plays
from kv_gym.bench.provenance import command, git_state, hardware, versions
from kv_gym.config import EnvConfig, make_config
from kv_gym.envs.acting import prepare_once
from kv_gym.envs.core import LOOK_AHEAD, Draw
from kv_gym.envs.demonstrations import Demonstration, demonstrate
from kv_gym.envs.vector_env import KVEvictVectorEnv
from kv_gym.errors import ConfigError
from kv_gym.files import cache_folder, lock, write_whole
from kv_gym.identity import canonical, identity_of
from kv_gym.identity.values import text_hash

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer

MOST_SEED = 2**31
AT_ONCE = 16  # episodes that are in memory while a dataset is put together


class Progress(Protocol):
    """Who is told how far it is."""

    def begin(self, stage: str, total: int) -> None:
        """Start a stage."""

    def advance(self, n: int) -> None:
        """So many more are done."""


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of.

    Attributes:
        dataset_id: Minari's, such as `kvevict-aime/h2o-b96-v0`.
        env_id: The environment.
        agent: Plays; with hindsight, it sees what the dataset does not show.
        episodes: The first so many problems; those that cannot be played are left out.
        options: Settings of the environment.
        seed: Problem i is played with seed + i.
    """

    dataset_id: str
    env_id: str
    agent: AgentLike
    episodes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_id(self.dataset_id)
        if self.config.temperature:
            raise ConfigError(
                f"temperature={self.config.temperature:g}: which episodes can be played is known in advance only "
                "without sampling. Use temperature=0."
            )
        if self.config.action != "scores":
            raise ConfigError(f"action={self.config.action!r}: agents give scores. Use action='scores'.")
        if self.config.hindsight:
            raise ConfigError("hindsight=True: a dataset shows none. Leave it out; an agent that has it gets it.")
        if not self.agent.evicts:
            raise ConfigError(f"{self.agent.name} evicts nothing, so there are no actions to keep.")
        if not 0 <= self.seed <= MOST_SEED:
            raise ConfigError(f"seed={self.seed} is not allowed: use 0 to {MOST_SEED}.")

    @property
    def config(self) -> EnvConfig:
        """Settings of the environment."""
        return make_config(self.env_id, **self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Options of the environment; a split of its own, and as many problems as there are episodes."""
        return {"split": "train", **self.options, "n_problems": self.episodes}


def minari() -> Any:
    """The library.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import h5py  # noqa: F401  # not all of Minari's extras have it
        import minari
    except ImportError as error:
        raise ConfigError(f"datasets need Minari ({error}). Run: pip install 'kv-gym[minari]'") from None
    return minari


def dataset_path(dataset_id: str) -> Path:
    """Where Minari looks for a dataset."""
    minari()
    from minari.storage import get_dataset_path

    return Path(get_dataset_path(dataset_id))


def check_id(dataset_id: str) -> None:
    """Refuse an id that Minari would not load, and one that there is.

    Raises:
        ConfigError: It is none.
    """
    minari()
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        *_, version = parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        version = None
    parts = Path(dataset_id).parts
    if version is None or Path(dataset_id).is_absolute() or {"..", "data"} & set(parts):
        raise ConfigError(
            f"{dataset_id!r} is no id of a dataset. Use one as kvevict-aime/h2o-b96-v0: a version at its end, names of "
            "two letters or more before it, none of them `data`."
        )
    path = dataset_path(dataset_id)
    if path.exists():
        raise ConfigError(f"there is a dataset {dataset_id!r}: {path}. Use another version.")
    for above in path.parents[: len(parts) - 1]:
        if above.is_file() or (above / "data").exists():
            raise ConfigError(f"{dataset_id!r}: {above} is no folder of datasets. Use another name.")


class Workshop:
    """A recipe at work: the environment, and the folder of the episodes so far.

    Args:
        recipe: What to make.
        num_envs: Episodes side by side; they do not depend on it.
    """

    def __init__(self, recipe: Recipe, num_envs: int = 16) -> None:
        self.recipe = recipe
        options = recipe.settings | ({"hindsight": True} if recipe.agent.uses_hindsight else {})
        self.env = KVEvictVectorEnv(recipe.env_id, min(num_envs, recipe.episodes), "Disabled", **options)
        self.env.core.queries = queries_of(recipe.agent)
        llm, identity = self.env.core.llm, identity_of(recipe.agent)
        prepare_once(recipe.agent, llm)
        warn_of_unnamed([identity])
        self.made_with = {
            "agent": identity.where,
            "agent_sha256": identity.sha256,
            "env_id": recipe.env_id,
            "settings": self.env.core.config.model_dump(mode="json"),
            "model_sha256": llm.fingerprint,
            "seed": recipe.seed,
            "versions": versions(),
        }
        self.folder = cache_folder() / "datasets" / text_hash(canonical(self.made_with))[:16]

    def make(self, progress: Progress) -> Path:
        """Play what is missing, and put the dataset together.

        Raises:
            ConfigError: None of the problems can be played.
            InUseError: Another process makes the same.
        """
        path = dataset_path(self.recipe.dataset_id)
        with lock(self.folder, "the episodes in", "choose other settings"), lock(path, "the dataset", "use another id"):
            check_id(self.recipe.dataset_id)  # again: another process may have made it
            draws = list(self._draws(progress))
            if not draws:
                raise ConfigError(
                    f"budget={self.env.core.config.budget}: none of the first {self.recipe.episodes} problems can be "
                    "played; their texts are too short. Lower the budget or ask for more episodes."
                )
            missing = [draw for draw in draws if not is_whole(self._file(draw[0]))]
            progress.begin("episodes", len(missing))
            for episode in demonstrate(self.env, self.recipe.agent, missing):
                save_episode(episode, self._file(episode.problem))
                progress.advance(1)
            path = self._assemble([self._file(index) for index, _ in draws])
            shutil.rmtree(self.folder)
        return path

    def _file(self, problem: int) -> Path:
        return self.folder / f"{problem:06}.npz"

    def _draws(self, progress: Progress) -> Iterator[Draw]:
        """Problem and seed of each episode, of those that can be played."""
        problems, wanted = self.env.core.problems, min(self.recipe.episodes, self.env.core.problems.size)
        progress.begin("full-cache texts", wanted)
        for start in range(0, wanted, LOOK_AHEAD):
            indices = range(start, min(start + LOOK_AHEAD, wanted))
            references = problems.solve(indices, [0] * len(indices))
            fine = {reference.problem.id for reference in references if plays(reference, problems.config)}
            yield from [(i, self.recipe.seed + i) for i in indices if problems.problem(i).id in fine]
            progress.advance(len(indices))

    def _assemble(self, files: Sequence[Path]) -> Path:
        """Put the dataset together beside its place, and move it there."""
        from minari.dataset.minari_storage import MinariStorage

        path = dataset_path(self.recipe.dataset_id)
        for killed in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(killed, ignore_errors=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")  # Minari lists no hidden folders
        (draft / "data").mkdir(parents=True)
        try:
            storage = MinariStorage.new(
                draft / "data", self.env.single_observation_space, self.env.single_action_space, self._spec()
            )
            returns, solved = [], 0
            for start in range(0, len(files), AT_ONCE):
                episodes = list(map(load_episode, files[start : start + AT_ONCE]))
                returns += [float(np.sum(episode.rewards)) for episode in episodes]
                solved += sum(bool(episode.infos["is_success"][-1]) for episode in episodes)
                storage.update_episodes(episodes)
            storage.update_metadata(self._metadata(returns, solved))
            self._name_the_namespace()
            draft.rename(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return path

    def _spec(self) -> Any:
        """How `MinariDataset.recover_environment` builds the environment; without hindsight."""
        spec = gymnasium.spec(self.recipe.env_id)
        return replace(spec, kwargs={**spec.kwargs, **self.recipe.settings})

    def _name_the_namespace(self) -> None:
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.namespace import create_namespace, list_local_namespaces

        namespace = parse_dataset_id(self.recipe.dataset_id)[0]
        if namespace is not None and namespace not in list_local_namespaces():
            create_namespace(namespace)

    def _metadata(self, returns: Sequence[float], solved: int) -> dict[str, Any]:
        git = git_state()
        config = self.env.core.config
        return {
            "dataset_id": self.recipe.dataset_id,
            "minari_version": minari().__version__,
            "algorithm_name": self.recipe.agent.name,
            "description": f"{self.recipe.agent.name} on {self.recipe.env_id}, {config.budget} slots, {config.mode}.",
            "requirements": [f"kv-gym=={versions()['kv_gym']}"],
            "code_permalink": f"kv-gym commit {git['commit'] if git else 'unknown'}",
            "kv_gym": {
                **self.made_with,
                "returns": {"mean": float(np.mean(returns)), "lowest": min(returns), "highest": max(returns)},
                "solved": solved,
                "command": command(),
                "git": git,
                "hardware": hardware(self.env.core.llm.shape.device),
            },
        }


def save_episode(episode: Demonstration, path: Path) -> None:
    """Write an episode to an .npz file in one piece."""
    stream = io.BytesIO()
    columns: dict[str, Any] = {
        "problem": episode.problem,
        "seed": episode.seed,
        "action": episode.actions,
        "reward": episode.rewards,
        "terminated": episode.terminations,
        "truncated": episode.truncations,
    }
    for name in episode.observations[0]:
        columns[f"observation/{name}"] = [seen[name] for seen in episode.observations]
    for name in episode.infos[0]:
        columns[f"info/{name}"] = [told[name] for told in episode.infos]
    np.savez_compressed(stream, **columns)
    write_whole(path, stream.getbuffer())


def is_whole(path: Path) -> bool:
    """Whether an episode has been kept; what cannot be read (the power may have gone) is played again."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            return "reward" in columns
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def load_episode(path: Path) -> EpisodeBuffer:
    """Read an episode as Minari wants it; its id is its place in the dataset."""
    from minari.data_collector import EpisodeBuffer

    with np.load(path, allow_pickle=False) as columns:
        infos: dict[str, Any] = {}
        for name in [name for name in columns if name.startswith("info/")]:
            *groups, last = name.split("/")[1:]
            group = infos
            for part in groups:
                group = group.setdefault(part, {})
            group[last] = columns[name]
        start = "observation/"
        return EpisodeBuffer(
            seed=int(columns["seed"]),
            options={"problem": int(columns["problem"])},
            observations={name.removeprefix(start): columns[name] for name in columns if name.startswith(start)},
            actions=columns["action"],
            rewards=columns["reward"],
            terminations=columns["terminated"],
            truncations=columns["truncated"],
            infos=infos,
        )


def metadata_of(dataset_id: str) -> dict[str, Any]:
    """What is stored about a dataset.

    Raises:
        ConfigError: There is none of that id, or it is not one of kv-gym.
    """
    path = dataset_path(dataset_id)
    if not (path / "data" / "metadata.json").exists():
        raise ConfigError(f"there is no dataset {dataset_id!r} in {path.parent}. `kv-gym dataset show` lists them.")
    metadata: dict[str, Any] = json.loads((path / "data" / "metadata.json").read_text())
    if "kv_gym" not in metadata:
        raise ConfigError(f"{dataset_id!r} was not made by `kv-gym dataset make`.")
    return metadata


def own_datasets() -> list[str]:
    """Ids of the datasets of kv-gym that are here."""
    local = minari().list_local_datasets()
    return [name for name, metadata in local.items() if "kv_gym" in metadata]
