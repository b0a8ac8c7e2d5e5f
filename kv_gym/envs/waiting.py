"""A word on stderr where an environment keeps its user waiting: loading torch, a model, or writing full-cache texts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

QUIET = "KV_GYM_QUIET"
"""An environment variable: with any value but 0 nothing is said."""
PATIENCE = 3.0
"""Seconds that nobody wonders about."""


@contextmanager
def told_if_slow(what: str, seconds: float = PATIENCE) -> Iterator[None]:
    """Say what is under way, once, if it takes longer than some seconds.

    Args:
        what: A clause, such as "the model 'tiny' is being loaded".
        seconds: How long nothing is said.
    """
    if os.environ.get(QUIET, "0") not in ("", "0"):
        yield
        return
    timer = threading.Timer(seconds, _tell, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(what: str) -> None:
    if sys.stderr is not None:  # a program without a console
        print(f"kv-gym: {what} ({QUIET}=1 silences this).", file=sys.stderr, flush=True)
