"""Files that survive a kill at any point: lines that are appended, and files that are written whole."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from kv_gym.errors import ConfigError, KVGymError


class InUseError(KVGymError):
    """Another process has a file or folder open for writing."""


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
        path: What is locked; the lock is a hidden file beside it.
        what: What it is, for people.
        remedy: What to do when another process has it.

    Raises:
        InUseError: Another process has it.
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path.with_name(f".{path.name.lstrip('.')}.lock"), timeout=0, thread_local=False)
    try:
        held.acquire()
    except Timeout as error:
        raise InUseError(f"another process is writing {what} {path}. Wait for it, or {remedy}.") from error
    return held


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


class LineFile:
    """Lines that one process at a time appends to.

    Args:
        path: Made with its folders if it does not exist; a torn last line, as a kill leaves it, is dropped.
        what: What the file is, for people.
        remedy: What to do when another process has it open.

    Attributes:
        lines: Lines that were there, without their newlines.

    Raises:
        InUseError: Another process has it open.
        OSError: It cannot be made, read or written.
    """

    def __init__(self, path: Path, what: str = "", remedy: str = "use another file") -> None:
        self.path = path
        self._lock = lock(path, what, remedy)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                data = path.read_bytes()
                whole = data.rfind(b"\n") + 1
                os.ftruncate(self._file, whole)
            except BaseException:
                os.close(self._file)
                raise
        except BaseException:
            self._lock.release()
            raise
        self.lines = data[:whole].splitlines()

    def add(self, line: bytes) -> None:
        """Append one line. When this returns, a kill of the process cannot lose it."""
        data = line + b"\n"
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error

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
