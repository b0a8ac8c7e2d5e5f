"""Which models can be evicted slot by slot: those whose layers keep one plain key and value per token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from kv_gym.errors import KVGymError, UnsupportedModelError

FULL = "full_attention"
WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that see all of a text which is no longer than this number of their config."""


def check_supported(config: Any) -> None:
    """Refuse models whose layers do not keep one plain key and value per token.

    Layers that attend to a window pass: they are full attention over texts that fit into it (`kv_gym.llm.limits`).

    Raises:
        UnsupportedModelError: Linear, state-space or convolutional layers, latent attention (MLA), or windowed layers
            without a window.
    """
    kinds = set(getattr(config, "layer_types", None) or [])
    other = sorted(kind for kind in kinds if kind != FULL and not window_of(config, kind))
    if not other and getattr(config, "kv_lora_rank", None):
        other = ["latent attention (MLA)"]
    if not other and (hasattr(config, "state_size") or hasattr(config, "ssm_cfg")):
        other = ["state_space"]
    if other:
        raise UnsupportedModelError(
            f"{config.model_type} has layers of type {', '.join(map(str, other))}; only full_attention layers keep a "
            "slot for every token. Use a model with full attention in every layer."
        )


def window_of(config: Any, kind: str) -> int | None:
    """Tokens that layers of a kind see; None where it has no window."""
    value = getattr(config, WINDOWS[kind], None) if kind in WINDOWS else None
    return value if isinstance(value, int) and value > 0 else None


@contextlib.contextmanager
def foreign_code(name: str, doing: str) -> Iterator[None]:
    """Code of a model's own class runs: whatever it raises says that the model is not one of those that work.

    Args:
        name: Of the model.
        doing: What was tried, as in "... while {doing}".

    Raises:
        UnsupportedModelError: From what was raised.
    """
    try:
        yield
    except (KVGymError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise UnsupportedModelError(
            f"{name} cannot be used ({type(error).__name__} while {doing}: {said}). Use another model; "
            "docs/models.md lists the families that work."
        ) from error
