"""Recorded actions: which slots each eviction of each episode dropped, as one packed safetensors file."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kv_gym.engine.eviction import others
from kv_gym.leaderboard.files import FileRefused, unpack

KINDS = (torch.uint8, torch.int16)


def pack_actions(evicted: Mapping[str, Tensor]) -> bytes:
    """Pack slot indices [steps, L, H_kv, evict_every] by episode; a byte each where they fit."""
    small = {
        key: x.to(torch.uint8 if not x.numel() or int(x.max()) < 256 else torch.int16) for key, x in evicted.items()
    }
    return lzma.compress(save({key: value.contiguous() for key, value in small.items()}), preset=6)


def unpack_actions(data: bytes, name: str) -> dict[str, Tensor]:
    """Read them back, int64.

    Raises:
        FileRefused: It is no such file, or holds other types.
    """
    try:
        found = load(unpack(data, name))
    except (SafetensorError, ValueError) as error:
        raise FileRefused("schema.actions", f"{name} is no safetensors file: {error}") from error
    for key, value in found.items():
        if value.dtype not in KINDS:
            raise FileRefused("schema.actions-type", f"actions of {key[:200]!r} are {value.dtype}, not uint8 or int16.")
    return {key: value.long() for key, value in found.items()}


def actions_hash(evicted: Tensor, n_slots: int) -> str:
    """Hash of the slots that stay, as the engine makes it, from those that go [steps, L, H_kv, evict_every]."""
    digest = hashlib.sha256()
    for step in others(evicted, n_slots) if len(evicted) else []:
        digest.update(step.to(torch.int32).numpy().tobytes())
    return digest.hexdigest()
