"""One episode as a Gymnasium environment."""

from __future__ import annotations

import textwrap
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle

from kv_gym.envs.core import METADATA, EvictionCore, Info, reset_options
from kv_gym.envs.observations import Observation, select_row
from kv_gym.rewards import REWARD_TERMS

END_TERMS = [term for term in REWARD_TERMS if term.needs == "answer"]
STEP_TERMS = [term for term in REWARD_TERMS if term.needs != "answer"]


INDENT, COLUMNS = "    ", 120  # of the class's docstring


def with_terms(text: str) -> str:
    """Fill in what the terms of the reward say of themselves (`kv_gym.rewards`)."""
    penalties = " ".join(f"{'+' if term.sign > 0 else '-'} {term.weight} * {term.name}" for term in STEP_TERMS)
    ends = " ".join(f"+ {term.weight} * {term.name}" for term in END_TERMS)
    reward = [f"At every step `{penalties}`, and at the last one `{ends}`:", ""]
    for term in REWARD_TERMS:
        unit = f", {term.unit.replace('²', ' squared')}" if term.unit else ""
        reward += wrapped(f"- `{term.name}`{unit}: {term.description}")
    *names, last = (f"`{term.name}`" for term in REWARD_TERMS)
    listed = f"{', '.join(names)} and {last}"
    terms = wrapped(f"- `reward_terms`, dict of floats: {listed} of this step, before they are weighted.")
    parts = {"{reward}": reward, "{terms}": terms}
    for place, lines in parts.items():
        text = text.replace(INDENT + place, "\n".join((INDENT + line).rstrip() for line in lines))
    return text


def wrapped(item: str) -> list[str]:
    """Lines of one item of a list."""
    return textwrap.wrap(item, COLUMNS - len(INDENT), subsequent_indent="  ", break_long_words=False)


class KVEvictEnv(gymnasium.Env[dict[str, Any], Any], EzPickle):
    r"""Choose which slots of a frozen LLM's key-value cache are evicted while it reasons.

    ## Problem
    The LLM reads a problem and works it out, token by token. Each token leaves one slot in every layer and KV head, the
    LLM's memory of it, and there is room for a limited number of them: after each `evict_every` new tokens the agent
    chooses as many slots that go, so that `budget` of them stay. What is evicted is gone for good. Will the answer
    still be right? The LLM itself never changes.

    An episode is one problem. It begins at the first eviction, when S = `budget + evict_every` tokens of the prompt and
    of the LLM's solution have been read: until then nothing is missing, so that text is the same for every agent. (A
    prompt that is longer goes on being read, with evictions.) Problems whose prompt is longer than `max_prompt_tokens`,
    or whose text with the full cache is shorter than `budget + 3 * evict_every` tokens, are not played.

    ## Action
    Before each step every layer and KV head holds S slots in the order in which they were written, the oldest first. In
    the step `evict_every` of them are evicted, then the LLM goes on for `evict_every` tokens. The setting `action` says
    how slots are chosen:

    - `"scores"`: a keep score for every slot, -1 to 1. The lowest are evicted, of equal ones the oldest.
    - `"mask"`: 1 for every slot that shall go, 0 for the others. If too few are marked, the oldest of the others go
      too; if too many are, the oldest marked ones go.
    - `"slot"`: the number of one slot, which goes everywhere, with `evict_every=1`. `env.action_masks()` says which
      may.

    The shape is [L, H_kv, S] with `granularity="head"`, [L, S] with `"layer"` and [S] with `"token"`. Every action of
    the space is legal. Protected slots stay whatever it says: the newest `n_recent`, those of the first `n_sink` tokens
    and, with `protect_prompt=True`, those of the prompt.

    ## Observation
    A Dict of arrays. Where heads or layers decide together (`granularity`), `slots` is the mean over them, and they
    have no axis in `slots` and `protected`.

    - `slots`, float32 [L, H_kv, S, F]: F numbers about each slot, first table below.
    - `context`, float32 [C]: C numbers about the episode, second table below.
    - `protected`, int8 [L, H_kv, S]: 1 where a slot cannot be evicted.
    - `keys` and `values`, float32 [L, H_kv, S, D]: the vectors themselves, only with `observe_kv=True`.

    ## Reward
    {reward}

    ## Episode end
    Terminated when the LLM ends its text by itself. Truncated when the text reaches its longest length:
    `max_new_tokens` behind the prompt or, with `mode="replay"`, `max_answer_tokens` behind the text that was replayed.
    Either way the answer is scored.

    ## Info
    The same keys at reset and at each step:

    - `is_success`, bool: the episode has ended with a fully right answer.
    {terms}
    - `n_illegal`, int: marks of the last action that evicted nothing, because their slot is protected or there were too
      many; 0 with `action="scores"`.
    - `n_tokens`, int: tokens generated so far, those before the first eviction included.
    - `kv_bytes`, int: memory of the episode's keys and values, bytes. It does not grow.
    - `problem` and `family`, str: which problem this is, and of what kind.
    - `hindsight`, dict, which no agent may read: `answer`, the right one, and with `hindsight=True` also `golden`,
      float32 [L, H_kv, S]: the attention that each slot gets from the coming window that pays it most, in the
      full-cache text.

    ## Arguments
    All settings are keywords, such as `gym.make(id, budget=96)`. `reset` takes a `seed` and `options={"problem":
    index}`; without an index a problem is drawn. The same seed and actions give the same episode on the same machine.
    `gym.make_vec(id, num_envs=16)` plays 16 episodes side by side.

    `render_mode` is a keyword too. What is shown is the text, in which a token fades as heads drop it, and a row for
    each layer and KV head: what it holds of the text, what it evicted in this step and what before. Gold answers and
    golden labels are not shown.

    - `"rgb_array"`: `render()` returns a picture, uint8 [720, 1280, 3].
    - `"ansi"`: `render()` returns a str with ANSI colours.
    - `"human"`: every reset and step shows that in the terminal, and `render()` returns None. Where stdout is no
      terminal, only the end of each episode is printed.

    ## Versions
    An id is a promise: whatever can change a score makes a new version, `-v1`. What changed is listed as `changelog` in
    `envs_configs/<env id>.yaml`.

    ## Words
    - **Token**: a piece of text, some letters long. The LLM reads and writes one after another.
    - **Attention**: how the LLM looks back. In each of its L layers a new token's *query* vector is compared with the
      *key* vectors of all tokens so far. That gives each of them a share, all shares sum to 1, and the mean of their
      *value* vectors, weighted by the shares, is what the layer takes from the past.
    - **KV head**: a layer does so several times side by side, and has H_kv sets of keys and values. Several query
      heads, a *group*, share one of them.
    - **Slot**: one key and one value vector of one KV head in one layer, D numbers each. All slots together are the
      *key-value cache*; the *full cache* is one from which nothing is ever evicted.
    - **Window**: the `evict_every` tokens between two evictions.
    - **Loss** of a token, or its *surprisal*: -log p, where p is the probability that the LLM gave it; nats. *Entropy*:
      the surprisal that the LLM expects before it sees the token; near 0 where it is sure.
    - **Golden Eviction**: what one would evict who knew all attention that is still to come; for comparison only.

    Args:
        env_id: Names the page in `envs_configs` the settings start from.
        render_mode: None, `rgb_array`, `human` or `ansi`.
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
        self.metadata = dict(METADATA)  # its own: older SyncVectorEnvs write into that of their first environment
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
            raise ResetNeeded("No episode is under way: it has ended, or never began as in a copy. Call env.reset().")
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

    def render(self) -> np.ndarray | str | None:
        """Return a picture with `render_mode="rgb_array"` and a text with `"ansi"`, otherwise None."""
        frames = self.core.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Let go of the caches."""
        self.core.close()
        self._running = False


KVEvictEnv.__doc__ = with_terms(KVEvictEnv.__doc__ or "")
