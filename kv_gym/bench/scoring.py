"""Asking an agent for keep scores, and refusing what are none."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kv_gym.agents import AgentLike
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError, ScoreError

Scope = Literal["layer", "model"]
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


def scope_of(agent: AgentLike) -> Scope:
    """What an agent scores at once: a `layer`, unless its attribute `scope` says that it compares the whole `model`.

    Raises:
        ConfigError: It is neither.
    """
    found = getattr(agent, "scope", "layer")
    if found not in ("layer", "model"):
        raise ConfigError(f"agent {agent.name!r} has scope={found!r}. Use 'layer', or 'model' if it compares layers.")
    return "model" if found == "model" else "layer"


def keep_scores(agent: AgentLike, slots: SlotView) -> Tensor:
    """Keep scores of all slots, [N, L, H_kv, S].

    Layer by layer, unless the agent compares them: what it computes on the way is then of one layer, and 36 layers of
    a long text fit into memory.

    Raises:
        ScoreError: They are no dense tensor of real numbers of the right shape on the model's device.
    """
    if scope_of(agent) == "model":
        return _checked(agent.score(slots), slots)
    return torch.cat([_checked(agent.score(layer), layer) for layer in slots.layers()], 1)


def _checked(scores: object, slots: SlotView) -> Tensor:
    check_kind(scores, slots.device)
    assert isinstance(scores, Tensor)
    if scores.shape != slots.shape:
        raise ScoreError(
            f"keep scores have shape {tuple(scores.shape)}; one per slot is {tuple(slots.shape)} [N, L, H_kv, S]. "
            "Agents see one layer at a time, unless their class has scope = 'model'."
        )
    return scores


def check_kind(scores: object, device: torch.device) -> None:
    """Refuse what no scores can be.

    Args:
        scores: What an agent returned.
        device: The model's.

    Raises:
        ScoreError: It is no dense tensor of real numbers on that device, or carries gradients.
    """
    if not isinstance(scores, torch.Tensor):
        raise ScoreError(f"keep scores are {type(scores).__name__}, not a tensor of shape [N, L, H_kv, S].")
    if type(scores) not in (torch.Tensor, torch.nn.Parameter):
        raise ScoreError(f"keep scores are a tensor of the class {type(scores).__name__}. Return a plain one.")
    if scores.requires_grad:
        raise ScoreError("keep scores carry gradients. Return scores.detach().")
    if scores.layout != torch.strided or scores.is_nested or scores.dtype not in DTYPES:
        form = "nested" if scores.is_nested else str(scores.layout).removeprefix("torch.")
        raise ScoreError(
            f"keep scores are {form} tensors of {scores.dtype}. Return a dense tensor of real numbers, such as float32."
        )
    if scores.device.type != device.type:
        raise ScoreError(f"keep scores are on {scores.device}, the model is on {device}. Return scores.to({device}).")
