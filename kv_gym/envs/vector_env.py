"""N episodes as a native Gymnasium vector environment: one forward of the LLM serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle, seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kv_gym.config import plain
from kv_gym.envs.core import METADATA, EvictionCore, Info, reset_options
from kv_gym.envs.observations import Observation, select_row
from kv_gym.errors import ConfigError

MOST_ENVS, MOST_STEPS = 2**16, 2**31


def check_count(name: str, number: Any, most: int) -> int:
    """Return a number of something.

    Raises:
        ConfigError: It is none, or more than `most`.
    """
    count = plain(number)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ConfigError(f"{name}={number!r} is not allowed: give an integer from 1 to {most}.")
    return count


class KVEvictVectorEnv(VectorEnv[dict[str, Any], Any, np.ndarray], EzPickle):
    """`KVEvictEnv` times `num_envs`, in lockstep. Row i with seed s is the single environment with seed s.

    Every row has its own random generator, so its episodes do not depend on how many others there are. A copy, or what
    comes out of a pickle, is a new environment with the same arguments: it begins with `reset`.

    Args:
        env_id: Names the page in `envs_configs` the settings start from.
        num_envs: Rows.
        autoreset_mode: `SameStep`: a row that ends starts anew in the same step, and what it ended with is in
            `infos["final_obs"]` and `infos["final_info"]`. `NextStep`: it starts anew in the next step, which ignores
            its action and gives no reward. `Disabled`: reset it yourself with
            ``reset(options={"reset_mask": ended})`` before the next step.
        render_mode: None, `rgb_array`, `human` or `ansi`, as in `KVEvictEnv`, for each row.
        max_episode_steps: Truncate episodes after so many steps; no answer is scored then.
        **options: Fields of `kv_gym.config.EnvConfig`.

    Raises:
        UnknownNameError: An option or the model does not exist.
        ConfigError: A value is not allowed; BudgetError when protection fills the budget.
    """

    metadata = METADATA
    closed = True  # nothing is there to close before the core is

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = "SameStep",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        EzPickle.__init__(self, env_id, num_envs, autoreset_mode, render_mode, max_episode_steps, **options)
        num_envs = check_count("num_envs", num_envs, MOST_ENVS)
        self.autoreset_mode = check_mode(autoreset_mode)
        given = max_episode_steps is not None
        self._most_steps = check_count("max_episode_steps", max_episode_steps, MOST_STEPS) if given else MOST_STEPS
        self.core = EvictionCore(env_id, num_envs, options, render_mode)
        self.closed = False
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.single_action_space = self.core.action_space
        self.single_observation_space = self.core.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs
        self._idle = np.ones(num_envs, dtype=np.bool_)  # rows without an episode under way
        self._steps = np.zeros(num_envs, dtype=np.int64)  # of the episodes
        self._started = False

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generators of the rows."""
        return tuple(self._rng(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What the rows were seeded with."""
        return tuple(self._seeds[row] for row, _ in enumerate(self.np_random))

    def _rng(self, row: int, seed: int | None = None) -> np.random.Generator:
        """Return the generator of a row, seeded anew with `seed`, or from nowhere where there is none yet."""
        rng = self._rngs[row]
        if rng is None or seed is not None:
            rng, self._seeds[row] = seeding.np_random(seed)
            self._rngs[row] = rng
        return rng

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: A number s seeds row i with s + i; or one seed for each row.
            options: `reset_mask`, bool [num_envs], the rows to reset (default all); `problem`, an index below
                `n_problems` for all rows, or one for each.

        Returns:
            The observations of all rows, and the infos of those that were reset.

        Raises:
            ConfigError: A mask, seed or problem of the wrong form; a problem that cannot be played.
            BudgetError: `protect_prompt` and a prompt that fills the budget.
            ReferenceFileError: A stored reference is damaged.
            ResetNeeded: The first reset leaves rows out.
        """
        chosen = reset_options(options, ("reset_mask", "problem"))
        seeds, problems = self._per_row_seeds(seed), self._per_row_problems(chosen.get("problem"))
        mask = self._check_mask(chosen["reset_mask"]) if "reset_mask" in chosen else np.ones(self.num_envs, np.bool_)
        if not self._started and not mask.all():
            raise ResetNeeded(f"reset_mask={mask.tolist()} leaves rows out that never began. Reset all of them first.")
        rows = np.flatnonzero(mask).tolist()
        self._start(rows, [seeds[row] for row in rows], [problems[row] for row in rows])
        self._started = True
        observation, row_infos = self.core.look()
        infos: dict[str, Any] = {}
        for row in rows:
            infos = self._add_info(infos, row_infos[row], row)
        return observation, infos

    def _start(self, rows: list[int], seeds: Sequence[int | None], problems: Sequence[int | None]) -> None:
        self._idle[rows] = True
        for row, seed in zip(rows, seeds, strict=True):
            self._rng(row, seed)
        self.core.reset(rows, self.np_random, problems)
        self._idle[rows], self._steps[rows] = False, 0

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Evict in every row, then let the LLM write `evict_every` tokens in each.

        Raises:
            ActionError: An action is outside the action space.
            ScoreError: A score is NaN.
            ResetNeeded: A row has no episode under way.
        """
        again = np.flatnonzero(self._idle).tolist()  # where the step is a reset
        if again and not (self._started and self.autoreset_mode is AutoresetMode.NEXT_STEP):
            raise ResetNeeded(
                f"rows {again} have no episode under way. Call reset() first; with autoreset_mode='Disabled' reset "
                "ended rows by reset(options={'reset_mask': ended})."
            )
        reward, terminated, truncated = self._play(actions)
        self._idle = terminated | truncated
        if again:
            self._start(again, [None] * len(again), [None] * len(again))
        observation, row_infos = self.core.look()
        finals: dict[int, Info] = {}
        ended = np.flatnonzero(self._idle).tolist()
        if ended and self.autoreset_mode is AutoresetMode.SAME_STEP:
            finals = {row: {"final_obs": select_row(observation, row), "final_info": row_infos[row]} for row in ended}
            self._start(ended, [None] * len(ended), [None] * len(ended))
            observation, row_infos = self.core.look()
        return observation, reward, terminated, truncated, self._merge(finals, row_infos)

    def _play(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play the rows that run; return (rewards, terminated, truncated)."""
        if self._idle.all():
            return np.zeros(self.num_envs), np.zeros_like(self._idle), np.zeros_like(self._idle)
        result = self.core.step(actions)
        reward = np.array(result.reward.cpu().numpy(), dtype=np.float64)
        terminated, truncated = (np.array(ends.cpu().numpy()) for ends in (result.terminated, result.truncated))
        self._steps += ~self._idle
        late = ~self._idle & ~terminated & ~truncated & (self._steps >= self._most_steps)
        self.core.stop(np.flatnonzero(late).tolist())
        return reward, terminated, truncated | late

    def _merge(self, finals: dict[int, Info], row_infos: list[Info]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for row, info in enumerate(row_infos):
            infos = self._add_info(infos, {**finals.get(row, {}), **info}, row)
        return infos

    def action_masks(self) -> np.ndarray:
        """Return which slots `action="slot"` may choose, [num_envs, S] bool, True = legal."""
        return self.core.action_masks()

    def render(self) -> tuple[np.ndarray | str, ...] | None:
        """Return what `KVEvictEnv.render` returns, for each row; a row that started anew shows its new episode."""
        return self.core.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the caches."""
        self.core.close()
        self._idle[:], self._started = True, False

    def _check_mask(self, mask: Any) -> np.ndarray:
        fits = isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,)
        if not fits or not mask.any():
            raise ConfigError(
                f"reset_mask={mask!r} is not allowed: it must be a numpy array of dtype bool and shape "
                f"({self.num_envs},) with at least one True, such as terminated | truncated."
            )
        return mask

    def _per_row_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + row for row in range(self.num_envs)]
        return self._one_each("seed", list(seed))

    def _per_row_problems(self, problem: Any) -> list[int | None]:
        if isinstance(problem, (Sequence, np.ndarray)) and not isinstance(problem, str):
            return self._one_each("problem", list(problem))
        return [problem] * self.num_envs

    def _one_each(self, name: str, values: list[Any]) -> list[Any]:
        if len(values) != self.num_envs:
            raise ConfigError(
                f"{len(values)} {name}s came for num_envs={self.num_envs}. Give one for each row, or one number."
            )
        return values


def check_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return the autoreset mode.

    Raises:
        ConfigError: It is not supported.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(mode.value) for mode in AutoresetMode)
        raise ConfigError(f"autoreset_mode={mode!r} is not one of {known}.") from None
