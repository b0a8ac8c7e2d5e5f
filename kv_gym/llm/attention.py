"""The one attention function that every frozen LLM runs on, and attention rows recomputed from stored queries.

transformers hands an attention function the queries after RoPE and whatever the cache's `update` returned. Ours asks
the cache which slots each query may see, so the same function serves the evicting and the full cache.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from kv_gym.errors import UnsupportedModelError

ATTENTION_NAME = "kv_gym_slots"
CACHE_KWARG = "kv_gym_cache"
CHANNELS = 8  # that a value gets for its mark
READING: ContextVar[Any] = ContextVar("READING")
"""The cache that a forward reads into, for models that do not hand `CACHE_KWARG` down to their attention."""


@contextlib.contextmanager
def reading(cache: Any) -> Iterator[None]:
    """Let `READING` say which cache a forward reads into."""
    before = READING.set(cache)
    try:
        yield
    finally:
        READING.reset(before)


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the slots that the cache holds.

    Args:
        module: The attention layer; `layer_idx` tells which.
        query: [N, H_q, T, D], after RoPE.
        key: [N, H_kv, S, D], as the cache returned it.
        value: [N, H_kv, S, D].
        attention_mask: Ignored; visibility comes from the cache.
        scaling: Factor on the logits; 1/sqrt(D) when missing.
        kwargs: May hold the cache under `kv_gym_cache`; else it is the one of `READING`.

    Returns:
        The output [N, T, H_q, D], and None for the weights.

    Raises:
        UnsupportedModelError: The model asks for soft-capped logits or learned attention sinks, or repeats KV heads.
    """
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} uses {name!r}, which slot attention does not compute. Use another model."
            )
    cache = kwargs[CACHE_KWARG] if CACHE_KWARG in kwargs else READING.get()  # a kwarg compiles without a break
    n, n_q_heads, length, width = query.shape
    n_kv_heads = key.shape[1]
    if n_kv_heads != cache.shape.n_kv_heads:
        raise UnsupportedModelError(
            f"{type(module).__name__} attends with {n_kv_heads} KV heads where its config says "
            f"{cache.shape.n_kv_heads}, so which query heads share one is not known. Use another model."
        )
    group = n_q_heads // n_kv_heads
    scale = 1 / math.sqrt(width) if scaling is None else scaling
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    cache.observe(layer, query, key, scale)
    # The queries of a group share their keys: fold the group into the query axis instead of repeating keys and values.
    folded, mask = query.reshape(n, n_kv_heads, group * length, width), cache.visible(length, group)
    marks = cache.marks(layer)
    if marks is None:
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scale)
    else:
        out, share = attention_with_share(folded, key, value, marks, mask, scale)
        cache.note(share)
    return out.reshape(n, n_q_heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, slot_attention)


def attention_with_share(
    query: Tensor, key: Tensor, value: Tensor, marks: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention, and how much of it goes to marked slots, without ever writing the attention down.

    The marks are one more channel of the values, so the softmax's weights sum them up; zeros fill the others up to a
    width that fast kernels take.

    Args:
        query: [N, H_kv, T, D].
        key: [N, H_kv, S, D].
        value: [N, H_kv, S, D].
        marks: 1 or 0, [N, H_kv, S].
        mask: As `scaled_dot_product_attention` takes it.
        scale: Factor on the logits.

    Returns:
        (output [N, H_kv, T, D], share [N, H_kv, T], 0 to 1).
    """
    width = value.shape[-1]
    more = F.pad(marks[..., None].to(value.dtype), (0, CHANNELS - 1))
    query, key = F.pad(query, (0, CHANNELS)), F.pad(key, (0, CHANNELS))
    out = F.scaled_dot_product_attention(query, key, torch.cat([value, more], -1), attn_mask=mask, scale=scale)
    return out[..., :width], out[..., width]


def attention_rows(query: Tensor, key: Tensor, visible: Tensor, scale: float) -> Tensor:
    """Softmaxed attention rows, float32.

    Args:
        query: [..., H_q, T, D].
        key: [..., H_kv, S, D].
        visible: Bool, broadcastable to [..., H_kv, group, T, S].
        scale: Factor on the logits.

    Returns:
        [..., H_kv, group, T, S]; rows that see nothing are zero.
    """
    n_kv_heads, slots = key.shape[-3:-1]
    shape = (*query.shape[:-3], n_kv_heads, query.shape[-3] // n_kv_heads, query.shape[-2], slots)
    allowed = torch.zeros(visible.shape, device=key.device, dtype=torch.float32).masked_fill_(~visible, -math.inf)
    mask = allowed.expand(shape).reshape(math.prod(shape[:-3]), shape[-3] * shape[-2], slots)
    rows = _masked_rows(query, key, mask, scale).view(shape)
    return torch.nan_to_num_(rows, nan=0.0)


def newest_rows(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The same for the queries of the newest slots, each of which sees all slots up to its own.

    Args:
        query: [..., H_q, T, D].
        key: [..., H_kv, S, D], of which the last T slots are the queries' own.
        scale: Factor on the logits.

    Returns:
        [..., H_kv, group, T, S].
    """
    *batch, n_q_heads, length, _ = query.shape
    n_kv_heads, slots = key.shape[-3:-1]
    group = n_q_heads // n_kv_heads
    later = torch.full((length, slots), -math.inf, device=key.device, dtype=torch.float32)
    later = later.triu(slots - length + 1).repeat(group, 1)
    return _masked_rows(query, key, later, scale).view(*batch, n_kv_heads, group, length, slots)


def _masked_rows(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention under a mask of 0 and -inf that broadcasts to [..., group T, S]; adding it is cheaper than filling."""
    n_kv_heads, slots, width = key.shape[-3:]
    grouped = query.reshape(-1, query.shape[-3] // n_kv_heads * query.shape[-2], width).float() * scale
    return torch.baddbmm(mask, grouped, key.reshape(-1, slots, width).float().transpose(-1, -2)).softmax(-1)


def attention_logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Unmasked logits, float32, [..., H_kv, group, T, S]; shapes as in `attention_rows`."""
    *batch, n_q_heads, length, width = query.shape
    n_kv_heads = key.shape[-3]
    grouped = query.reshape(*batch, n_kv_heads, n_q_heads // n_kv_heads * length, width)
    logits = torch.matmul(grouped.float() * scale, key.float().transpose(-1, -2))
    return logits.reshape(*batch, n_kv_heads, n_q_heads // n_kv_heads, length, key.shape[-2])


def masked_softmax(logits: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the last axis where `visible`; rows that see nothing are zero."""
    return torch.nan_to_num_(logits.masked_fill(~visible, -math.inf).softmax(-1), nan=0.0)


def unrotation(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Factors for `unrotate` from those of RoPE, which may also stretch."""
    square = cos.square() + sin.square()
    return cos / square, sin / square


def unrotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Undo RoPE on states [..., T, D].

    Args:
        states: After RoPE, whose channels are paired by halves, as in Llama.
        cos: From `unrotation`; broadcasts to the first R channels of `states`.
        sin: Likewise.
    """
    size, states = cos.shape[-1], states.to(torch.promote_types(states.dtype, cos.dtype))
    first, second, plain = states[..., : size // 2], states[..., size // 2 : size], states[..., size:]
    (cos1, cos2), (sin1, sin2) = cos.chunk(2, -1), sin.chunk(2, -1)
    found = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    torch.mul(first, cos1, out=found[..., : size // 2]).addcmul_(second, sin1)
    torch.mul(second, cos2, out=found[..., size // 2 : size]).addcmul_(first, sin2, value=-1)
    found[..., size:] = plain
    return found
