"""From an action to keep scores, and how much of it was ignored.

    action -> one mark or score per decision and slot -> keep scores [N, L, H_kv, S]

Every action of the space is legal. Protected slots stay whatever the action says; where too few slots are marked the
oldest unprotected ones fill up, where too many are the oldest marked ones go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.eviction import Granularity
from kv_gym.errors import ActionError

AXES: dict[str, str] = {"head": "[L, H_kv, S]", "layer": "[L, S]", "token": "[S]"}
"""Axes of an action, of `protected` and, with F behind them, of `slots`."""

_LEADING: dict[str, int] = {"head": 2, "layer": 1, "token": 0}


def decision_shape(n_layers: int, n_kv_heads: int, slots: int, granularity: Granularity) -> tuple[int, ...]:
    """Return the sizes of `AXES`."""
    return (*(n_layers, n_kv_heads)[: _LEADING[granularity]], slots)


def make_action_space(config: EnvConfig, shape: tuple[int, ...]) -> spaces.Space[Any]:
    """Return the action space of one episode.

    Args:
        config: Settings of the env.
        shape: From `decision_shape`.
    """
    if config.action == "slot":
        return spaces.Discrete(config.slots)
    if config.action == "mask":
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)  # a number, where libraries want one
    return spaces.Box(-1.0, 1.0, shape, np.float32)


def check_action(action: Any, config: EnvConfig, shape: tuple[int, ...], row: int) -> np.ndarray:
    """Return the action of one episode as an array of the right shape.

    Args:
        action: What the agent gave.
        config: Settings of the env.
        shape: From `decision_shape`.
        row: The episode, for messages.

    Raises:
        ActionError: Wrong shape, no number, a mask that is not 0 or 1, or a slot that does not exist. NaN passes: the
            engine refuses it with a ScoreError.
    """
    whose = f"action of episode {row}"
    array = _array(action, whose)
    _check_form(array, config, shape, whose)
    if config.action == "slot" and not 0 <= array < config.slots:
        raise ActionError(
            f"{whose} is slot {array}; there are slots 0 to {config.slots - 1}. Choose one that env.action_masks() "
            "allows."
        )
    if config.action == "mask" and not np.isin(array, (0, 1)).all():
        bad = array[~np.isin(array, (0, 1))].flat[0]
        raise ActionError(
            f"{whose} holds {bad}; action='mask' takes 1 (evict) or 0 for each slot. Threshold it, or use "
            "action='scores'."
        )
    return array


def _array(action: Any, whose: str) -> np.ndarray:
    """Turn an action into an array.

    Raises:
        ActionError: It is none; says what to do.
    """
    if isinstance(action, Tensor) and action.requires_grad:
        raise ActionError(f"{whose} is a tensor that carries gradients. Give action.detach().")
    if isinstance(action, Tensor) and action.dtype == torch.bfloat16:
        raise ActionError(f"{whose} is a tensor of bfloat16, which numpy does not know. Give action.float().")
    try:
        return np.asarray(action.cpu() if isinstance(action, Tensor) else action)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, and what else numpy refuses
        raise ActionError(f"{whose} is no array: {error}. Give what env.action_space describes.") from error


def _check_form(array: np.ndarray, config: EnvConfig, shape: tuple[int, ...], whose: str) -> None:
    """Raise ActionError unless shape and dtype are those of the action space."""
    single = config.action == "slot"
    if array.shape != (() if single else shape):
        takes = "one slot number, a single integer" if single else f"shape {shape} {AXES[config.shared]}"
        raise ActionError(
            f"{whose} has shape {array.shape}; action={config.action!r} with granularity={config.shared!r} takes "
            f"{takes}. Give what env.action_space describes."
        )
    if array.dtype.kind not in ("iu" if single else "biuf"):
        takes = "integers" if single else "numbers"
        raise ActionError(
            f"{whose} has dtype {array.dtype}; action={config.action!r} takes {takes}. Give what env.action_space "
            "describes."
        )


def keep_scores(actions: Tensor, protected: Tensor, config: EnvConfig) -> tuple[Tensor, Tensor]:
    """Turn checked actions into keep scores.

    Args:
        actions: [N, *AXES], or [N] slot numbers with action="slot".
        protected: Slots that stay anyway, [N, L, H_kv, S] bool.
        config: Settings of the env.

    Returns:
        (keep scores [N, L, H_kv, S] float32, what was ignored of each action [N] long).
    """
    granularity = config.shared
    if config.action == "scores":
        nothing = torch.zeros(len(actions), dtype=torch.long, device=actions.device)
        return spread(actions.float(), granularity, protected.shape), nothing
    shared = collapse(protected, granularity)
    marked = one_marked(actions, config.slots) if config.action == "slot" else actions.bool()
    return spread(mask_scores(marked), granularity, protected.shape), ignored_marks(marked, shared, config.evict_every)


def one_marked(slot: Tensor, slots: int) -> Tensor:
    """Mark slot number `slot` [N] of `slots`, [N, S] bool."""
    return torch.arange(slots, device=slot.device) == slot[:, None]


def mask_scores(marked: Tensor) -> Tensor:
    """Keep scores of a mask: 0 for marked slots, 1 for others, so marked ones go first and of equals the oldest."""
    return 1.0 - marked.float()


def ignored_marks(marked: Tensor, protected: Tensor, evict_every: int) -> Tensor:
    """Count the marks that evict nothing: those on protected slots and those beyond `evict_every` in one decision.

    Args:
        marked: [N, *AXES] bool.
        protected: Same shape.
        evict_every: Slots that one decision evicts.

    Returns:
        [N] long, summed over decisions.
    """
    on_protected = (marked & protected).sum(-1)
    beyond = ((marked & ~protected).sum(-1) - evict_every).clamp_min(0)
    return (on_protected + beyond).reshape(len(marked), -1).sum(-1)


def spread(values: Tensor, granularity: Granularity, shape: torch.Size) -> Tensor:
    """Give every layer and head its decision, [N, *AXES] -> [N, L, H_kv, S]."""
    for _ in range(2 - _LEADING[granularity]):
        values = values.unsqueeze(-2)
    return values.expand(shape)


def collapse(values: Tensor, granularity: Granularity) -> Tensor:
    """Undo `spread`: what is the same for all that decide together, [N, L, H_kv, S] -> [N, *AXES]."""
    for _ in range(2 - _LEADING[granularity]):
        values = values[..., 0, :]
    return values
