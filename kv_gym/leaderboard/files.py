"""Reading files of strangers: bounded in size, no links, no duplicate keys, no numbers that are none."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import math
from pathlib import Path
from typing import Any

from kv_gym.errors import KVGymError

MIB = 2**20
LIMITS = {"submission.json": MIB, "system.json": MIB, "SHA256SUMS": MIB}
LIMIT = 64 * MIB  # of every other file
INFLATED = 512 * MIB  # of what a packed file holds
AGENT_FOLDER = "agent"
MAX_PLACE = 150  # characters of a path inside it
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
PLACE = rf"{_PART}(/{_PART}){{0,4}}"
"""A path inside the agent's folder."""


class FileRefused(KVGymError, ValueError):
    """A file of a submission cannot be accepted.

    Args:
        code: Short reason that does not change, such as `schema.file-size`.
        detail: What came, and what is allowed.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


def read_bounded(path: Path) -> bytes:
    """Read a plain file that is not too large.

    Raises:
        FileRefused: It is missing, a link, or too large.
    """
    if path.is_symlink():
        raise FileRefused("schema.symlink", f"{path.name} is a link. Put the file itself there.")
    if not path.is_file():
        raise FileRefused("schema.missing-file", f"{path.name} is missing.")
    limit, size = LIMITS.get(path.name, LIMIT), path.stat().st_size
    if size > limit:
        raise FileRefused("schema.file-size", f"{path.name} has {size:,} bytes; {limit:,} are allowed.")
    return path.read_bytes()


def unpack(data: bytes, name: str, limit: int = INFLATED) -> bytes:
    """Inflate gzip or xz data, by its name, up to `limit` bytes.

    Raises:
        FileRefused: It is damaged or holds more.
    """
    try:
        with gzip.open(io.BytesIO(data)) if name.endswith(".gz") else lzma.open(io.BytesIO(data)) as stream:
            found = stream.read(limit + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise FileRefused("schema.compression", f"{name} cannot be unpacked: {error}.") from error
    if len(found) > limit:
        raise FileRefused("schema.inflated-size", f"{name} holds more than {limit:,} bytes.")
    return found


def parse_json(data: bytes) -> Any:
    """Read a JSON value.

    Raises:
        FileRefused: It is no JSON, an object has a key twice, or a number is not finite.
    """
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_not_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileRefused):
            raise
        raise FileRefused("schema.json", f"no JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FileRefused("schema.duplicate-key", f"key {twice[:100]!r} is there twice.")
    return found


def _not_finite(text: str) -> float:
    raise FileRefused("schema.non-finite", f"{text} is no number.")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)
