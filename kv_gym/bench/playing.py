"""A note of who plays: it stays where a process ended without a word, and the next one says of whom it is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from kv_gym.files import write_whole

MAX_CHARS = 200

logger = logging.getLogger(__name__)


class Playing:
    """The note beside a file of rows; only for who holds the file's lock.

    Args:
        rows: The file.
    """

    def __init__(self, rows: Path) -> None:
        self._path = rows.with_name(f".{rows.name.lstrip('.')}.playing")
        if self._path.exists():
            who = self._path.read_text(encoding="utf-8", errors="replace")[:MAX_CHARS]
            logger.warning(
                "the last run ended while %s was playing. If nobody ended it, its code did (os._exit), or the memory "
                "was used up; it is played again now.",
                "".join(one if one.isprintable() else "?" for one in who),
            )
            self._path.unlink()

    @contextlib.contextmanager
    def note(self, who: str) -> Iterator[None]:
        """Have it written down who plays what runs inside."""
        write_whole(self._path, who.encode("utf-8", errors="replace"))
        try:
            yield
        finally:
            self._path.unlink(missing_ok=True)
