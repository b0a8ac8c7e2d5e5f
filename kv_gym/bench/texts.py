"""What was generated, beside the rows: `texts.jsonl.gz`, a line an episode, named by the row that it belongs to.

A replayed text is known; there the line also has the loss of each of its tokens, in half precision.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kv_gym.bench.rows import EpisodeRow, RowFileError, sha256_of
from kv_gym.engine.records import EpisodeRecord
from kv_gym.files import LineFile, remove_drafts, write_whole
from kv_gym.problems.grading import extract_answer

PACKED, OPEN = "texts.jsonl.gz", "texts.jsonl"


def text_key(row: EpisodeRow) -> str:
    """Name of a row in a file of texts."""
    return sha256_of(list(row.key))[:32]


class TextFile:
    """Texts of one folder of rows, open for appending by one process at a time.

    While a benchmark runs its lines stand in `texts.jsonl`, where a kill cannot lose one; at the end they are packed.

    Args:
        folder: Of the rows.

    Attributes:
        known: Keys of the texts that are there.

    Raises:
        RowFileError: A file is damaged.
        InUseError: Another process has it open.
    """

    def __init__(self, folder: Path) -> None:
        self.packed = folder / PACKED
        self._file = LineFile(folder / OPEN, "the texts", "use another --out", (b'{"key": ',))
        try:
            remove_drafts(self.packed)
            self._in_pack = {text["key"] for text in _lines(self.packed)}
            self.known = self._in_pack | {text["key"] for text in _lines(folder / OPEN)}
        except BaseException:
            self._file.close()
            raise

    def add(self, row: EpisodeRow, record: EpisodeRecord) -> None:
        """Append the text of a row. When this returns, a kill of the process cannot lose it."""
        if (key := text_key(row)) in self.known:
            return
        line = {
            "key": key, "agent": row.agent, "budget": row.budget, "mode": row.mode, "problem": row.problem,
            "seed": row.seed, "correct": row.correct, "stop": row.stop, "tokens_sha256": row.tokens_sha256,
            "text": record.text,
        } | ({} if record.losses is None else {"losses": packed(record.losses)})  # fmt: skip
        self._file.add(json.dumps(line).encode())
        self.known.add(key)

    def close(self) -> None:
        """Pack what was added: gzip files that follow each other are one."""
        lines = _lines(self.packed.with_name(OPEN))
        new = [json.dumps(text) + "\n" for text in lines if text["key"] not in self._in_pack]
        if new:
            old = self.packed.read_bytes() if self.packed.exists() else b""
            write_whole(self.packed, old + gzip.compress("".join(new).encode(), 9, mtime=0))
        self._file.remove()
        self._file.close()

    def __enter__(self) -> TextFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_texts(folder: Path) -> Iterator[dict[str, Any]]:
    """Texts beside the rows of a folder; those of a running benchmark too.

    Raises:
        RowFileError: A file is damaged.
    """
    seen: set[str] = set()
    for path in (folder / PACKED, folder / OPEN):
        for text in _lines(path):
            if text["key"] not in seen:
                seen.add(text["key"])
                yield text


def rename_texts(folder: Path, names: Mapping[str, str], keep: bool) -> None:
    """Give texts the new names of their rows, in one piece.

    Args:
        folder: Of the rows.
        names: New keys by old ones.
        keep: Whether texts also keep their old names: until the rows have their new ones.

    Raises:
        RowFileError: A file is damaged.
    """
    lines = []
    for text in read_texts(folder):
        now = names.get(text["key"])
        lines += [text] if now is None or keep else []
        lines += [] if now is None else [text | {"key": now}]
    if names and lines:
        data = "".join(json.dumps(text) + "\n" for text in {text["key"]: text for text in lines}.values()).encode()
        write_whole(folder / PACKED, gzip.compress(data, 9, mtime=0))


def packed(losses: Tensor) -> str:
    """Losses as text: base64 of little-endian half precision numbers."""
    return base64.b64encode(losses.cpu().numpy().astype("<f2").tobytes()).decode()


def unpacked(losses: str) -> NDArray[np.float32]:
    """Undo `packed`.

    Raises:
        ValueError: It is no base64, or not of whole numbers.
    """
    return np.frombuffer(base64.b64decode(losses, validate=True), "<f2").astype(np.float32)


def losses_by_key(folder: Path, keys: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """Loss of each replayed token, nats, [T], of those of `keys` whose text has losses.

    Raises:
        RowFileError: A file is damaged, or losses are no finite numbers.
    """
    found = {}
    for text in read_texts(folder):
        if text["key"] in keys and "losses" in text:
            try:
                found[text["key"]] = _finite(text["losses"])
            except ValueError as error:
                raise RowFileError(
                    f"{folder / PACKED}: the losses of the row {text['key']!r} cannot be read: {error}. Delete the "
                    "file; --texts plays its episodes again."
                ) from error
    return found


def _finite(losses: object) -> NDArray[np.float32]:
    if not isinstance(losses, str):
        raise ValueError("they are no text")
    values = unpacked(losses)
    if not np.isfinite(values).all():
        raise ValueError("some are no finite numbers")
    return values


def answers(folder: Path) -> dict[str, str | None]:
    """What stands in the last box of each text, by its key."""
    return {text["key"]: extract_answer(text["text"]) for text in read_texts(folder)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of one file; none where there is no file."""
    if not path.exists():
        return
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for line in file:
                number += 1
                if not line.endswith(b"\n"):
                    return  # torn by a kill, or still being written
                text = json.loads(line)
                if not isinstance(text, dict) or not all(isinstance(text.get(name), str) for name in ("key", "text")):
                    raise ValueError("it has no key and text")
                yield text
    except (ValueError, EOFError, RecursionError, gzip.BadGzipFile, zlib.error) as error:
        raise RowFileError(
            f"{path}, line {max(1, number)} is not a text of `kv-gym bench --texts`: {error}. Delete the file; "
            "--texts plays its episodes again."
        ) from error
