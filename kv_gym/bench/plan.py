"""What a benchmark plays: agents x budgets x modes, and the episodes of each cell with their references."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kv_gym.agents import AgentLike
from kv_gym.bench.progress import Progress
from kv_gym.bench.provenance import how_computed
from kv_gym.bench.rows import EpisodeRow, RunRow, sha256_of
from kv_gym.config import EnvConfig, env_page, make_config, plain
from kv_gym.engine.episodes import is_playable
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.errors import ConfigError
from kv_gym.identity import Identity
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.problems import Problem, list_problems, source_of
from kv_gym.rewards import REWARD_TERMS

Mode = Literal["generate", "replay"]
MODES: tuple[Mode, ...] = ("generate", "replay")
AUTO: Literal["auto"] = "auto"
MOST_EPISODES = 1_000_000  # of an agent at one budget; what is more is a slip of the pen
MOST_SIDE_BY_SIDE = 65_536
MOST_SEED = 2**32  # that problems are drawn with, and no more (`kv_gym.config`)
# What cannot move a row, is a part of its key by itself, or (the model) is in the fingerprint.
NO_SETTING = {
    "budget", "mode", "shadow", "n_problems", "split", "problem_seed", "model", "revision", "dtype", "action",
    "observe_kv", "hindsight", "n_recent", "granularity", "needs_trace", "compile",
    *(term.weight for term in REWARD_TERMS),
}  # fmt: skip
LATER_SETTINGS = {"chat_template_kwargs", "system_prompt", "instruction"}
"""Rows from before these settings are what they would be with the defaults, so those are left out."""


@dataclass(frozen=True)
class Bench:
    """What to run.

    Attributes:
        env_id: The environment.
        agents: Agents, built.
        budgets: Slots; default is the page's.
        problems: The first so many of the problem set; default is the page's.
        seeds: Episode seeds 0 to `seeds - 1`.
        modes: `generate`, `replay` or both; default is the page's.
        width: Episodes side by side; `auto`: as many as fit into the memory that is free (`kv_gym.bench.widths`).
        options: Other settings of the environment. Environments play the train split; the benchmark plays test.
        texts: Keep every generated text beside the rows, and the loss of each replayed token.
        missed_attention: Let a full cache read along in replay, which takes about three times as long.
        agent_seconds: Longest time of a decision of an agent; None is without limit.
        problem_seeds: Of made problems: the first `problems` of as many seeds, from `problem_seed` of the options on.
        shard: (i, n): only every n-th episode from the i-th on, from 1; n machines with one shard each play all.
    """

    env_id: str
    agents: Sequence[AgentLike]
    budgets: Sequence[int] = ()
    problems: int | None = None
    seeds: int = 1
    modes: Sequence[Mode] = ()
    width: int | Literal["auto"] = AUTO
    options: Mapping[str, Any] = field(default_factory=dict)
    problem_seeds: int = 1
    agent_seconds: float | None = None
    texts: bool = False
    missed_attention: bool = False
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        defaults = env_page(self.env_id).bench
        object.__setattr__(self, "budgets", tuple(dict.fromkeys(self.budgets or defaults.budgets)))
        object.__setattr__(self, "modes", tuple(self.modes or defaults.modes))
        object.__setattr__(self, "problems", defaults.problems if self.problems is None else self.problems)
        for name in ("problems", "seeds", "problem_seeds", *(() if self.width == AUTO else ("width",))):
            value = plain(getattr(self, name))
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r} leaves nothing to run. Use a whole number from 1 on.")
        asked = self.problems * self.seeds * self.problem_seeds  # type: ignore[operator]
        if asked > MOST_EPISODES:
            raise ConfigError(
                f"problems={self.problems} x seeds={self.seeds} x problem_seeds={self.problem_seeds} are more than "
                f"{MOST_EPISODES:,} episodes. Ask for fewer."
            )
        if self.width != AUTO and self.width > MOST_SIDE_BY_SIDE:
            raise ConfigError(f"width={self.width} is more than {MOST_SIDE_BY_SIDE:,} episodes side by side.")
        if "n_problems" in self.options:
            raise ConfigError("options: n_problems is what `problems` says. Leave it out.")
        if self.agent_seconds is not None and not 0 < self.agent_seconds < math.inf:
            raise ConfigError(f"agent_seconds={self.agent_seconds} is no time. Use seconds above 0.")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"shard {self.shard[0]} of {self.shard[1]}: there are shards 1 to {self.shard[1]}.")
        if not self.agents:
            raise ConfigError("there is no agent to run. Name at least one.")

    def config(self, budget: int, mode: Mode) -> EnvConfig:
        """Settings of one cell."""
        shadow = self.missed_attention and mode == "replay"
        options = {"split": "test", **self.options, "budget": budget, "mode": mode, "shadow": shadow}
        return make_config(self.env_id, **options, n_problems=self.problems)


@dataclass(frozen=True)
class Episode:
    """One problem with one seed.

    Attributes:
        seconds: Time that its reference took, where it was generated in this run.
    """

    reference: Reference
    seed: int
    seconds: float | None = None

    @property
    def problem(self) -> Problem:
        """What is asked."""
        return self.reference.problem


@dataclass(frozen=True)
class Cell:
    """One agent at one budget in one mode, with the episodes it is measured on."""

    agent: AgentLike
    identity: Identity
    config: EnvConfig
    episodes: list[Episode]


def plays(reference: Reference, config: EnvConfig) -> bool:
    """Whether an episode can be played: as `is_playable`, and a protected prompt leaves something to choose."""
    room = not config.protect_prompt or reference.n_prompt + config.recent < config.budget
    return room and is_playable(reference, config)


Wanted = Sequence[tuple[Problem, int]]
"""Problems with the seeds of their episodes."""
Making = Callable[[Wanted, int], Iterator[tuple[list[int], list[Reference]]]]
"""Makes references, so many side by side: yields places in what was wanted, and what was made of them."""


def prepare(
    llm: FrozenLLM, config: EnvConfig, seeds: int, width: int, progress: Progress, problem_seeds: int = 1,
    shard: tuple[int, int] = (1, 1), make: Making | None = None,
) -> list[Episode]:  # fmt: skip
    """Return an episode for every problem and seed, with the full-cache generation of each.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.
        seeds: Of the episodes, from 0 on.
        width: Full-cache generations side by side.
        progress: Told how far it is.
        problem_seeds: Of made problems.
        shard: As of a `Bench`.
        make: Makes what is missing; by default it is done here.
    """
    wanted = [(problem, seed) for problem in fresh_problems(config, problem_seeds) for seed in range(seeds)]
    wanted = wanted[shard[0] - 1 :: shard[1]]
    store = ReferenceStore(llm, config)
    keys = [store.key(problem, seed) for problem, seed in wanted]
    unique = dict(zip(keys, wanted, strict=True))  # greedy: one reference for all seeds
    missing = [key for key in unique if not store.knows(key)]
    progress.begin("full-cache references", len(missing))
    seconds: dict[str, float] = {}
    if make is not None and missing:
        for places, made in make([unique[key] for key in missing], width):
            for place, reference in zip(places, made, strict=True):
                store.keep(missing[place], reference)
            progress.advance(len(made))
        missing = []
    for start in range(0, len(missing), width):
        part = missing[start : start + width]
        clock = time.perf_counter()
        texts, their_seeds = zip(*(unique[key] for key in part), strict=True)
        store.get(list(texts), list(their_seeds), width=width, progress=progress.advance)
        seconds |= dict.fromkeys(part, (time.perf_counter() - clock) / len(part))
    references = store.get([problem for problem, _ in wanted], [seed for _, seed in wanted], width=width)
    return [
        Episode(reference, seed, seconds.get(key))
        for reference, (_, seed), key in zip(references, wanted, keys, strict=True)
    ]


def fresh_problems(config: EnvConfig, problem_seeds: int) -> list[Problem]:
    """The problems of an env, drawn with its own problem seed and the next ones.

    Raises:
        ConfigError: There is one set, whatever the seed; or the last seed is too large.
    """
    if problem_seeds > 1 and source_of(config).size(config.split) is not None:
        raise ConfigError(
            f"problem_seeds={problem_seeds}: problems={config.problems!r} is one set that no seed changes. Leave it "
            "out."
        )
    first = config.problem_seed
    seeds = range(first, first + problem_seeds)
    if seeds.stop > MOST_SEED:
        raise ConfigError(
            f"problem_seed={first} + problem_seeds={problem_seeds} is above {MOST_SEED}. Use lower seeds."
        )
    return [p for seed in seeds for p in list_problems(config.model_copy(update={"problem_seed": seed}))]


def result_settings(config: EnvConfig) -> dict[str, Any]:
    """Every setting that can move a row, apart from budget, mode, problem, seed and model, which its key holds."""
    unset = {name for name in LATER_SETTINGS if getattr(config, name) == EnvConfig.model_fields[name].get_default()}
    settings = config.model_dump(mode="json", exclude=NO_SETTING | unset)
    return settings | {"recent": config.recent, "shared": config.shared}


def config_of(run: RunRow, row: EpisodeRow) -> EnvConfig:
    """The settings that a row was made with.

    Raises:
        ConfigError: This version knows other settings.
    """
    settings = {name: value for name, value in run.settings.items() if name not in ("recent", "shared")}
    config = make_config(
        row.env_id, **settings, n_recent=run.settings["recent"], granularity=run.settings["shared"], split=row.split,
        model=run.model["name"], revision=run.model.get("revision"), dtype=run.model["dtype"], budget=row.budget,
        mode=row.mode, shadow=row.measured("missed_attention") is not None, n_problems=run.plan["problems"],
        compile="on" if how_computed(row.computation) == "compiled" else "auto",
    )  # fmt: skip
    if sha256_of(result_settings(config)) != run.settings_sha256:
        raise ConfigError(f"the settings of {row.env_id} are others in this version. Play the rows again.")
    return config
