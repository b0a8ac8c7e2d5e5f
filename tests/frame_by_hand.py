"""A frame whose every slot is known: one layer, two KV heads, four tokens read and a fifth written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kv_gym.show.frames import Frame

HELD = np.array([[[1, 0, 0, 1], [0, 0, 1, 1]]], dtype=bool)
GONE = np.array([[[0, 1, 0, 0], [0, 1, 0, 0]]], dtype=bool)
ATTENTION = np.array([[[1e-4, 0, 0, 0.1], [0, 0, 0.1, 0.1]]], dtype=np.float32)


def hand_made(**changes: Any) -> Frame:
    """Token a: head 0 holds it. b: both lost it now. c: head 1 holds it, head 0 lost it before. d: both. e: unread."""
    frame = Frame(
        env_id="Env-v0", problem="p/0", family="sums", budget=2, step=3, n_prompt=1, tokens=("a", "b", "c", "d", "e"),
        held=HELD, gone=GONE, attention=ATTENTION, axis=8, kv_bytes=2048, kv_bytes_full=3 * 2**20, reward=0.5,
        total=-0.25, terms={"loss_spike": 0.125, "attention_spike": 0.375}, score=None, n_ended=0, total_score=0.0,
    )  # fmt: skip
    return replace(frame, **changes)
