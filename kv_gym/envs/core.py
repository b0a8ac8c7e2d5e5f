"""What the single and the vector environment share.

A seed gives a problem and an episode seed, those give a reference, an `EpisodeBatch` plays it, and what Gymnasium sees
is one row of its observations and infos.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded

from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.episodes import EpisodeBatch, StepResult, is_playable
from kv_gym.engine.memory import Asked, MemoryPlan, widest
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.envs.actions import check_action, decision_shape, keep_scores, make_action_space
from kv_gym.envs.observations import Observation, make_observation_space, observe, own_array
from kv_gym.envs.waiting import told_if_slow
from kv_gym.errors import ActionError, ConfigError, UnknownOptionError, unknown_name
from kv_gym.llm.device import free_memory, usable
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.llm.outline import sizes_of
from kv_gym.problems import Problem, problem_at, problem_count
from kv_gym.rewards import REWARD_TERMS
from kv_gym.show.frames import Frame, FrameMaker
from kv_gym.show.rendering import DRAWN, RENDER_FPS, RENDER_MODES, HumanScreen

METADATA: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}
TERMS = tuple(term.name for term in REWARD_TERMS)
LOOK_AHEAD = 64
"""Most problems that are solved side by side while looking for a playable one."""

BESIDE = 8
"""Problems that are solved side by side, at least, when the first one is new."""

Info = dict[str, Any]
Draw = tuple[int, int]
"""Problem and seed of an episode."""


class ProblemSet:
    """The problems of an env, and which of them can be played.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.

    Raises:
        ConfigError: No text of this env is long enough for its budget.
    """

    def __init__(self, llm: FrozenLLM, config: EnvConfig) -> None:
        longest, needed = config.max_prompt_tokens + config.max_new_tokens, config.slots + 2 * config.evict_every
        if needed > longest:
            raise ConfigError(
                f"budget={config.budget} with evict_every={config.evict_every} needs texts of {needed} tokens (budget "
                f"+ 3 * evict_every); max_prompt_tokens={config.max_prompt_tokens} + max_new_tokens="
                f"{config.max_new_tokens} allow {longest}. Use budget <= {longest - 3 * config.evict_every} or raise "
                "max_new_tokens."
            )
        self.llm, self.config = llm, config
        self.size = problem_count(config)
        self.store = ReferenceStore(llm, config)
        self._beside = BESIDE

    def problem(self, index: int) -> Problem:
        """Return problem `index`.

        Raises:
            ConfigError: There is none.
        """
        n = self.size
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < n:
            raise ConfigError(
                f"problem={index!r} is not in this env; its problems are 0 to {n - 1}. Choose one or raise n_problems."
            )
        return problem_at(self.config, int(index))

    def chosen(self, index: int, seed: int) -> Reference:
        """Return the reference of a problem somebody asked for; whether it can be played is for the engine to say."""
        return self.store.get([self.problem(index)], [seed])[0]

    def playable(self, start: int, seed: int) -> Reference:
        """Return the reference of the first playable problem from `start` on, going round.

        Raises:
            ConfigError: No problem can be played.
        """
        n, tried, width = self.size, 0, 1
        while tried < n:
            indices = [(start + i) % n for i in range(tried, min(tried + width, n))]
            for reference in self.solve(indices, [seed] * len(indices)):
                if is_playable(reference, self.config):
                    return reference
            tried, width = tried + len(indices), min(2 * width, LOOK_AHEAD)
        needed = self.config.slots + 2 * self.config.evict_every
        raise ConfigError(
            f"budget={self.config.budget}: none of the {n} problems can be played; a prompt may have max_prompt_tokens="
            f"{self.config.max_prompt_tokens} and a text needs {needed} tokens (budget + 3 * evict_every). Lower the "
            "budget or raise max_prompt_tokens."
        )

    def solve_ahead(self, episodes: Sequence[Draw], coming: Iterator[Draw]) -> None:
        """Solve the problems of episodes that start; where one is new, with those of the next ones beside it.

        A text alone takes almost as long as eight side by side. Each time there are twice as many: few for somebody
        who tries an episode, many for a training.

        Args:
            episodes: Problem and seed of each.
            coming: The same of what would be drawn next.
        """
        fresh = self._new_ones(episodes)
        if not fresh:
            return
        width, self._beside = min(self._beside, self._room()), min(2 * self._beside, LOOK_AHEAD)
        ahead = [draw for draw in itertools.islice(coming, 2 * width) if not self.problem(draw[0]).trace]
        chosen = list((fresh | self._new_ones(ahead)).values())[: max(width, len(fresh))]
        self.solve([index for index, _ in chosen], [seed for _, seed in chosen])

    def _new_ones(self, episodes: Iterable[Draw]) -> dict[str, Draw]:
        """Those without a reference, by its key: where texts are not sampled, seeds share one."""
        found = {self.store.key(self.problem(index), seed): (index, seed) for index, seed in episodes}
        return {key: draw for key, draw in found.items() if not self.store.knows(key)}

    def solve(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Reference]:
        """Return the references of those problems whose prompt fits, generated side by side where they are new."""
        fitting = [
            (problem, seed)
            for problem, seed in zip(map(self.problem, indices), seeds, strict=True)
            if len(self.llm.encode_prompt(problem.prompt, self.store.chat)) <= self.config.max_prompt_tokens
        ]
        if not fitting:
            return []
        problems, their_seeds = zip(*fitting, strict=True)
        n_new = sum(not self.store.knows(self.store.key(problem, seed)) for problem, seed in fitting)
        with told_if_slow(f"{n_new} problems are new: the full cache writes their texts, which are kept"):
            return self.store.get(list(problems), list(their_seeds), self._room())

    def _room(self) -> int:
        """Texts for whose full cache there is memory now, up to `LOOK_AHEAD`."""
        device = self.llm.shape.device
        free = free_memory(device)
        if free is None:
            return LOOK_AHEAD
        sizes = sizes_of(self.llm.model, self.llm.shape.dtype, device)
        plan = MemoryPlan(sizes, self.config, Asked())
        return max(1, widest(plan.references, usable(free, device) + sizes.weights, LOOK_AHEAD))


class EvictionCore:
    """N rows of episodes and the arrays that Gymnasium wants of them.

    Args:
        env_id: Names the page in `envs_configs` the settings start from.
        n: Rows, N.
        options: Settings that differ from the page's.
        render_mode: None, `rgb_array`, `human` or `ansi`.

    Attributes:
        config: Settings of the env.
        action_space: Of one episode.
        observation_space: Of one episode.
        queries: Newest queries that are kept for agents, where the usual ones are not enough; before the first reset.
    """

    def __init__(self, env_id: str, n: int, options: dict[str, Any], render_mode: str | None) -> None:
        if render_mode is not None and render_mode not in METADATA["render_modes"]:
            raise ConfigError(f"render_mode={render_mode!r} is not one of None, {', '.join(METADATA['render_modes'])}.")
        self.config, self.n = settings(env_id, options), n
        with told_if_slow(f"the model {self.config.model!r} is being loaded"):
            self.llm = load_llm(self.config.model, self.config.revision, self.config.dtype, self.config.device)
        self.problems = ProblemSet(self.llm, self.config)
        sizes = self.llm.shape
        self.shape = decision_shape(sizes.n_layers, sizes.n_kv_heads, self.config.slots, self.config.shared)
        self.action_space = make_action_space(self.config, self.shape)
        self.observation_space = make_observation_space(self.config, sizes, self.shape)
        self.queries = 0
        self._batch: EpisodeBatch | None = None
        self._env_id, self._render_mode = env_id, render_mode
        self._frames: FrameMaker | None = None  # only where somebody looks
        self._screen = HumanScreen() if render_mode == "human" else None
        self._terms = {name: np.zeros(n) for name in TERMS}
        self._ignored = np.zeros(n, dtype=np.int64)

    @property
    def batch(self) -> EpisodeBatch:
        """The engine, built when first needed."""
        if self._batch is None:
            self._batch = EpisodeBatch(
                self.llm, self.config, self.n, hindsight=self.config.hindsight, queries=self.queries
            )
            self._frames = FrameMaker(self._env_id, self._batch) if self._render_mode else None
        return self._batch

    def close(self) -> None:
        """Let go of the caches."""
        self._batch = self._frames = None

    def reset(self, rows: Sequence[int], rngs: Sequence[np.random.Generator], problems: Sequence[int | None]) -> None:
        """Start episodes in `rows`.

        Args:
            rows: Which ones.
            rngs: The generators of all rows. One always gives a problem and an episode seed, so a chosen problem does
                not change the rest of the stream.
            problems: A problem index for each of `rows`, or None to draw it.
        """
        drawn = [int(rngs[row].integers(self.problems.size)) for row in rows]
        seeds = [int(rngs[row].integers(2**32)) for row in rows]
        starts = [index if problem is None else problem for index, problem in zip(drawn, problems, strict=True)]
        self.problems.solve_ahead(list(zip(starts, seeds, strict=True)), self._coming(rngs))
        references = [
            self.problems.playable(start, seed) if problem is None else self.problems.chosen(problem, seed)
            for start, seed, problem in zip(starts, seeds, problems, strict=True)
        ]
        self.batch.reset(rows, references, seeds)
        for values in (*self._terms.values(), self._ignored):
            values[list(rows)] = 0
        if self._frames is not None:
            self._frames.start(rows)
        if self._screen is not None and self._screen.live:
            self._screen.show(self._all_frames())

    def _coming(self, rngs: Sequence[np.random.Generator]) -> Iterator[Draw]:
        """Problem and seed of the episodes that would be drawn next; the generators themselves stay where they are."""
        ahead = copy.deepcopy(list(rngs))
        while True:
            yield from [(int(rng.integers(self.problems.size)), int(rng.integers(2**32))) for rng in ahead]

    def step(self, actions: Sequence[Any]) -> StepResult:
        """Play one action a row.

        Raises:
            ActionError: An action is outside the action space.
            ScoreError: A score is NaN.
        """
        if not hasattr(actions, "__len__"):
            raise ActionError(f"{type(actions).__name__} came as actions. Give one for each of {self.n} episodes.")
        if len(actions) != self.n:
            raise ActionError(f"{len(actions)} actions came for num_envs={self.n} episodes. Give one for each.")
        arrays = [check_action(action, self.config, self.shape, row) for row, action in enumerate(actions)]
        tensor = torch.as_tensor(np.stack(arrays), device=self.llm.shape.device)
        scores, ignored = keep_scores(tensor, self.batch.protected, self.config)
        if self._frames is not None:
            self._frames.begin_step()
        result = self.batch.step(scores)
        if self._frames is not None:
            self._frames.end_step(result)
        if self._screen is not None:
            self._screen.show(self._all_frames())
        self._ignored = own_array(ignored)
        self._terms = {name: own_array(result.terms[name].double()) for name in TERMS}
        return result

    def stop(self, rows: Sequence[int]) -> None:
        """End episodes where they are, without an answer."""
        self.batch.active[list(rows)] = False

    def reference(self, row: int) -> Reference:
        """Return what the episode in `row` starts from.

        Raises:
            ResetNeeded: No episode ever began there.
        """
        reference = self.batch.texts.references[row]
        if reference is None:
            raise ResetNeeded(f"No episode ever began in row {row}. Call reset() first.")
        return reference

    def look(self) -> tuple[Observation, list[Info]]:
        """Return the observations of all rows as one batch, and the info of each."""
        view = self.batch.slots()
        golden = None if view.hindsight is None else own_array(view.hindsight.future.float())
        return observe(view, self.config), [self._info(row, golden) for row in range(self.n)]

    def _info(self, row: int, golden: np.ndarray | None) -> Info:
        problem = self.reference(row).problem
        hindsight: dict[str, Any] = {"answer": problem.answer}
        if golden is not None:
            hindsight["golden"] = golden[row].copy()
        return {
            "is_success": bool(self.batch.records.correct[row] == 1),
            "reward_terms": {name: float(self._terms[name][row]) for name in TERMS},
            "n_illegal": int(self._ignored[row]),
            "n_tokens": len(self.batch.texts.generated(row)),
            "kv_bytes": self.batch.cache.nbytes,
            "problem": problem.id,
            "family": problem.family,
            "hindsight": hindsight,
        }

    def action_masks(self) -> np.ndarray:
        """Return which slots may be chosen, [N, S] bool, True = legal.

        Raises:
            ConfigError: The action is not a slot.
        """
        if self.config.action != "slot":
            raise ConfigError(
                f"action_masks() lists the legal values of action='slot'; action={self.config.action!r} has none. "
                "Protected slots are in obs['protected']."
            )
        return own_array(~self.batch.protected[:, 0, 0])

    def render(self) -> tuple[np.ndarray | str, ...] | None:
        """Return a picture or a text of each row; None where nothing is rendered, or `human` has already seen it.

        Raises:
            ResetNeeded: No episode ever began.
        """
        if self._render_mode not in DRAWN:
            return None
        return tuple(DRAWN[self._render_mode](frame) for frame in self._all_frames())

    def _all_frames(self) -> list[Frame]:
        for row in range(self.n):
            self.reference(row)
        assert self._frames is not None
        return self._frames.frames(range(self.n))


def settings(env_id: str, options: dict[str, Any]) -> EnvConfig:
    """Return the settings of an env. One that does not exist is refused in Python's words: libraries look for them.

    Raises:
        UnknownOptionError: An option does not exist.
        ConfigError: A value is not allowed; BudgetError when protection fills the budget.
    """
    try:
        return make_config(env_id, **options)
    except UnknownOptionError as error:
        name = next(name for name in options if name not in EnvConfig.model_fields)
        raise UnknownOptionError(f"__init__() got an unexpected keyword argument {name!r}: {error}") from None


def reset_options(options: dict[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """Return the options of `reset`.

    Raises:
        UnknownNameError: One does not exist.
        ConfigError: They are no dict.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"reset(options={options!r}): give a dict, such as options={{'problem': 3}}, or None.")
    for name in options or {}:
        if name not in known:
            raise unknown_name("reset option", name, known)
    return dict(options or {})
