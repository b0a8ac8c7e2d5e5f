"""One episode as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle

from kv_gym.envs.core import METADATA, EvictionCore, Info, reset_options
from kv_gym.envs.observations import Observation, select_row


class KVEvictEnv(gymnasium.Env[dict[str, Any], Any], EzPickle):
    """Choose which key-value slots of a frozen reasoning LLM are evicted while it writes.

    ## Problem
    The LLM works a problem out, token by token. Its cache holds `budget` slots per layer and KV head and is emptied to
    that size every `evict_every` tokens. What is evicted is gone for good; will the answer still be right?

    ## Action
    S = `budget + evict_every` slots are filled at every decision, in time order, and `evict_every` of them go.

    - `action="scores"`: Box [-1, 1], a keep score for every slot; the lowest go, of equals the oldest.
    - `action="mask"`: MultiBinary; the marked go. Too few: the oldest others fill up. Too many: the oldest marked go.
    - `action="slot"`: Discrete(S) with `evict_every=1`; that slot goes everywhere. `action_masks()` says which may.

    Shapes are [L, H_kv, S] with `granularity="head"`, [L, S] with `"layer"` and [S] with `"token"`. Every action of the
    space is legal: protected slots stay whatever it says, and `info["n_illegal"]` counts what was ignored.

    ## Observation
    A Dict. `slots` float32 [L, H_kv, S, F]: the columns of `kv_gym.features.FEATURES`, a mean over what decides
    together. `context` float32 [C]: those of `kv_gym.features.CONTEXT`. `protected` MultiBinary [L, H_kv, S]: 1 where
    nothing can be evicted. The leading axes collapse with the granularity. With `observe_kv=True` also `keys` and
    `values` float32 [L, H_kv, S, D], always per head.

    ## Reward
    `w_correct * correct` at the end, `- w_loss * loss_spike - w_attention * attention_spike` at each step.

    ## Episode end
    Terminated when the LLM stops by itself, truncated when the text reaches its longest length.

    ## Info
    The same keys at reset and at each step: `is_success` (bool, True from a right end on), `reward_terms` (unweighted:
    correct 0 or 1, loss_spike in nats squared, attention_spike a share), `n_illegal`, `n_tokens` (generated so far),
    `kv_bytes` (of the evicting cache), `problem` (its id), `family`, and `hindsight`, which no agent may read:
    `answer`, and with `hindsight=True` also `golden` float32 [L, H_kv, S], the largest attention each slot will get in
    the full-cache generation.

    ## Arguments
    Every field of `kv_gym.config.EnvConfig` by keyword, and `render_mode` (None or `ansi`). `reset` takes a `seed` and
    `options={"problem": index}`; without it a problem is drawn, and the next playable one taken.

    ## Versions
    See `changelog` in `envs_configs/<env id>.yaml`.

    Args:
        env_id: Names the page in `envs_configs` the settings start from.
        render_mode: None or `ansi`.
        **options: Fields of `EnvConfig`.

    Raises:
        UnknownNameError: An option or the model does not exist.
        ConfigError: A value is not allowed; BudgetError when protection fills the budget.
    """

    metadata = METADATA

    def __init__(self, env_id: str, render_mode: str | None = None, **options: Any) -> None:
        EzPickle.__init__(self, env_id, render_mode, **options)
        self.core = EvictionCore(env_id, 1, options, render_mode)
        self.render_mode = render_mode
        self.action_space = self.core.action_space
        self.observation_space = self.core.observation_space
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode.

        Args:
            seed: Seeds the draw of this problem and episode and of those to come.
            options: `problem`, an index below `n_problems`.

        Raises:
            ConfigError: The problem does not exist or cannot be played, or none can.
            BudgetError: `protect_prompt` and a prompt that fills the budget.
            ReferenceFileError: The stored reference is damaged.
        """
        super().reset(seed=seed)
        problem = reset_options(options, ("problem",)).get("problem")
        self._running = False
        self.core.reset([0], [self.np_random], [problem])
        self._running = True
        return self._look()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Evict, then let the LLM write `evict_every` tokens.

        Raises:
            ActionError: The action is outside the action space.
            ScoreError: A score is NaN.
            ResetNeeded: There is no episode under way.
        """
        if not self._running:
            raise ResetNeeded("No episode is under way: it has ended or never began. Call env.reset() first.")
        result = self.core.step([action])
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        self._running = not (terminated or truncated)
        observation, info = self._look()
        return observation, float(result.reward[0]), terminated, truncated, info

    def _look(self) -> tuple[Observation, Info]:
        observations, infos = self.core.look()
        return select_row(observations, 0), infos[0]

    def action_masks(self) -> np.ndarray:
        """Return which slots `action="slot"` may choose, [S] bool, True = legal."""
        return self.core.action_masks()[0]

    def render(self) -> str | None:
        """Return the text so far and one line of numbers with `render_mode="ansi"`."""
        return self.core.render(0) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Let go of the caches."""
        self.core.close()
        self._running = False
