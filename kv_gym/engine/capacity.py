"""How long the texts of an env may get, and whether its model is right for texts of that length."""

from __future__ import annotations

from kv_gym.config import EnvConfig
from kv_gym.errors import ConfigError
from kv_gym.llm.frozen import FrozenLLM


def text_capacity(config: EnvConfig) -> int:
    """Longest text of an episode, tokens, with room for the last window."""
    return config.max_prompt_tokens + config.max_new_tokens + config.max_answer_tokens + 2 * config.evict_every


def check_capacity(llm: FrozenLLM, config: EnvConfig) -> None:
    """Refuse an env whose texts may get longer than its model is right for.

    Raises:
        ConfigError: Says what the texts may hold, what the model is right for, and what to set.
    """
    capacity, limit = text_capacity(config), llm.limit
    if limit is None or capacity <= limit.tokens:
        return
    most = limit.tokens - capacity + config.max_new_tokens
    remedy = f"Set max_new_tokens <= {most}" if most > 0 else "Set max_prompt_tokens and max_new_tokens lower"
    raise ConfigError(
        f"model {llm.name!r} is right for texts of up to {limit.tokens} tokens, because {limit.why}; texts of this env "
        f"may hold {capacity} (max_prompt_tokens={config.max_prompt_tokens} + max_new_tokens={config.max_new_tokens} + "
        f"max_answer_tokens={config.max_answer_tokens} + 2 * evict_every={2 * config.evict_every}). {remedy}, or use "
        "another model."
    )
