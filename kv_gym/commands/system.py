"""What the operating system does to a program: signals, terminals, and files that cannot be read or written."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REMEDIES = {
    errno.EACCES: "Choose a place that you may write to (--out, KV_GYM_CACHE, or another working folder).",
    errno.EPERM: "Choose a place that you may write to (--out, KV_GYM_CACHE, or another working folder).",
    errno.EROFS: "Choose a place that you may write to (--out, KV_GYM_CACHE, or another working folder).",
    errno.EEXIST: "There is a file where a folder should be. Choose another name.",
    errno.ENOTDIR: "There is a file where a folder should be. Choose another name.",
    errno.EISDIR: "This is a folder. Give the name of a file in it.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Check the path.",
    errno.ENOSPC: "Make room; the same command goes on from what is written.",
    errno.EDQUOT: "Make room; the same command goes on from what is written.",
    errno.EFBIG: "The limit of a file's size is reached (ulimit -f). Raise it; the same command goes on.",
    errno.EMFILE: "Too many files are open (ulimit -n). Raise the limit.",
}


def trouble(error: OSError) -> int:
    """Say which file, why and what to do; return the exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read our output has gone; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    what = error.filename2 or error.filename or "a file"
    remedy = REMEDIES.get(error.errno or 0, "Everything that was written before is kept.")
    print(f"FileError: {what}: {error.strerror or error}. {remedy}", file=sys.stderr)
    return 1 if error.errno in FULL else 2


def end_like_interrupt() -> None:
    """Let SIGTERM end the program as Ctrl-C does: what is written stays, and the message says where it is."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def speak_utf8() -> None:
    """Write what a terminal's encoding lacks as question marks, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
