"""Files that survive a kill at any point: lines that are appended, and files that are written whole."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from kv_gym.errors import ConfigError, KVGymError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


ROWS_FILE = "rows.jsonl"
"""Where a benchmark keeps its rows, in a folder of its own."""


class InUseError(KVGymError):
    """Another process has a file or folder open for writing."""


class ForeignFileError(KVGymError):
    """A file ends with something that nobody here wrote; it is left as it is."""


def cache_folder() -> Path:
    """The folder of what can be made again: the user's cache folder, or `KV_GYM_CACHE`.

    Raises:
        ConfigError: It is a file.
    """
    base = Path(os.environ.get("KV_GYM_CACHE") or user_cache_path("kv-gym"))
    if base.exists() and not base.is_dir():
        raise ConfigError(f"KV_GYM_CACHE={str(base)!r} is a file. Set it to a folder, or unset it.")
    return base


def lock(path: Path, what: str, remedy: str) -> FileLock:
    """Take a lock that the operating system lets go of when this process ends, however it ends.

    Args:
        path: What is locked; the lock is a hidden file beside it, or beside what it is a link to.
        what: What it is, for people.
        remedy: What to do when another process has it.

    Raises:
        InUseError: Another process has it.
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    real = path.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)  # of a link into a folder that is not there yet
    held = FileLock(real.with_name(f".{real.name.lstrip('.')}.lock"), timeout=0, thread_local=False)
    try:
        held.acquire()
    except Timeout as error:
        raise _in_use(path, what, remedy) from error
    return held


def _in_use(path: Path, what: str, remedy: str) -> InUseError:
    return InUseError(f"another process is writing {what} {path}. Wait for it, or {remedy}.")


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file in one piece: it is there whole or not at all, with the permissions that the umask gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def remove_drafts(path: Path) -> None:
    """Remove what killed writers of a file left; only for who holds its lock."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        draft.unlink(missing_ok=True)


def split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Lines of JSON without their newlines, and what a kill left of the last one (b"" where it is whole).

    A last line that is whole without its newline, as editors leave it, is a line like the others.
    """
    whole = data.rfind(b"\n") + 1
    lines, rest = data[:whole].splitlines(), data[whole:]
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(rest), dict | list):
            return [*lines, rest], b""
    return lines, rest


class LineFile:
    """Lines of JSON that one process at a time appends to. Opening changes nothing in the file.

    Args:
        path: Made with its folders if it does not exist.
        what: What the file is, for people.
        remedy: What to do when another process has it open.
        starts: How its lines start. A last line that was torn by a kill starts so, or consists of zero bytes (a power
            cut), and is overwritten by the first line that is added.

    Attributes:
        lines: Lines that were there, without their newlines.

    Raises:
        InUseError: Another process has it open.
        ForeignFileError: It ends with a torn line that starts otherwise.
        OSError: It cannot be made, read or written.
    """

    def __init__(self, path: Path, what: str, remedy: str, starts: Sequence[bytes]) -> None:
        self.path = path
        self._lock = lock(path, what, remedy)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                self._lock_file(what, remedy)
                data = path.read_bytes()
                self.lines, torn = split_lines(data)
                self._check_torn(torn, starts)
            except BaseException:
                os.close(self._file)
                raise
        except BaseException:
            self._lock.release()
            raise
        self._good = len(data) - len(torn)
        self._torn, self._open_line = bool(torn), bool(data) and not torn and not data.endswith(b"\n")

    def _lock_file(self, what: str, remedy: str) -> None:
        """Lock the file itself too: it may have another name in another folder (a hard link)."""
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _in_use(self.path, what, remedy) from error

    def _check_torn(self, torn: bytes, starts: Sequence[bytes]) -> None:
        begun = torn.rstrip(b"\0")
        ours = any(begun[: len(start)] == start[: len(begun)] for start in starts)
        if begun and not (ours and min(begun) >= ord(" ")):  # JSON of ours holds no control characters
            raise ForeignFileError(
                f"{self.path} ends with {begun[:60]!r}, which is no part of this file and has no newline. Nothing was "
                "changed. Remove it, or use another file."
            )

    def add(self, line: bytes) -> None:
        """Append one line. When this returns, a kill of the process cannot lose it."""
        if self._torn:
            os.ftruncate(self._file, self._good)
        data = (b"\n" if self._open_line else b"") + line + b"\n"
        self._torn = self._open_line = False
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error

    def clear(self) -> None:
        """Remove all lines."""
        os.ftruncate(self._file, 0)
        self.lines, self._good, self._torn, self._open_line = [], 0, False, False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
        self._lock.release()

    def remove(self) -> None:
        """Delete the file, which is still open, and its lock: it is not needed any more."""
        for path in (self.path, Path(self._lock.lock_file)):
            path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
