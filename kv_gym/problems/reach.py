"""Whether the Hugging Face hub answers. Where it does not, what is stored here is used at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 5.0
"""Seconds in which the hub must answer."""
REMEMBERED = 60.0
"""Seconds for which an answer, or its lack, counts."""

logger = logging.getLogger(__name__)
_last: tuple[float, bool] | None = None  # when the hub was asked, and whether it answered


@contextmanager
def hub_or_stored() -> Iterator[None]:
    """Run with the hub where it answers, and else offline, as HF_HUB_OFFLINE=1 makes it.

    The hub's own client asks six times for each file, over 23 seconds, before it looks at what is stored.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or hub_answers():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def hub_answers() -> bool:
    """Whether the hub answers, whatever it says; a warning tells if it does not."""
    global _last
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if _last is not None and time.monotonic() - _last[0] < REMEMBERED:
        return _last[1]
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        answered = True
    except Exception as error:  # its HTTP clients raise their own kinds
        first = (str(error).splitlines() or [""])[0][:200]
        logger.warning(
            "the Hugging Face hub (%s) does not answer (%s: %s): only what is stored here is used.",
            constants.ENDPOINT, type(error).__name__, first,
        )  # fmt: skip
        answered = False
    _last = time.monotonic(), answered
    return answered
