"""The worker, seen from here: a child process that compares answers, killed when its time is up.

What needs sympy runs there, with bounded memory. math-verify's own timeouts use `signal.alarm`, which fails outside the
main thread. The limit is on CPU time, so that a busy machine does not turn right into wrong; where there is no timer
for it (Windows), and for a process that gets no CPU at all, there is a wide limit on wall time. Where Python has no
`resource` module (Windows), memory is not bounded.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from kv_gym.errors import GradingError, UndecidedError

CPU_LIMIT = 2.0  # seconds of CPU time for one comparison
WALL_FACTOR = 10  # seconds of wall time for each of CPU time, at most; a machine with ten times the work of its cores
START_TIMEOUT = 60.0  # seconds; about 1 on a free core

logger = logging.getLogger(__name__)

# The child gets a bare package: kv_gym/__init__.py may import more than a grader needs. Its paths are ours, because
# a test runner or a notebook may have found kv_gym by other means than PYTHONPATH.
_BOOT = """
import sys, types
for name in ("kv_gym", "kv_gym.problems", "kv_gym.problems.grading"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + name.removeprefix("kv_gym").replace(".", "/")]
sys.path[:] = sys.argv[2:]
from kv_gym.problems.grading import served
served.serve()
"""


class Worker:
    """A child process that compares answers one at a time; killed and replaced when it takes too long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ready = False

    def warm_up(self) -> None:
        """Start now (about a second), so that the first comparison need not wait for it."""
        with self._lock:
            self._ensure_ready()

    def ask(self, answer: str, gold: str, cpu_seconds: float = CPU_LIMIT) -> bool:
        """Say whether two answers are the same.

        Raises:
            UndecidedError: It took longer, or ended the worker.
            GradingError: The worker cannot start.
        """
        seconds = WALL_FACTOR * cpu_seconds
        request = {"answer": answer, "gold": gold, "cpu_seconds": cpu_seconds, "seconds": seconds + 1}
        with self._lock:
            self._ensure_ready()
            reply = self._exchange(json.dumps(request).encode() + b"\n", seconds)
            if reply in (b"true\n", b"false\n"):
                return reply == b"true\n"
            self.stop()
            self._start()  # does not wait: it imports while the caller goes on
        raise UndecidedError(
            f"comparing {answer[:60]!r} with the gold answer took over {cpu_seconds:g} s of CPU time or ended the "
            "worker: nobody knows whether it is right."
        )

    def stop(self) -> None:
        """Kill the process. Takes no lock, so that it can run at exit whatever other threads do."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close(process)

    def forget(self) -> None:
        """Leave the process to the parent, after a fork: two users of its pipes would get each other's replies."""
        if self._process is not None:
            self._process.returncode = 0  # not our child; keeps Popen from waiting for it
            _close(self._process)
        self._process = None
        self._lock = threading.Lock()  # another thread may have held it at the fork

    def _start(self) -> None:
        self._ready = False
        self._replies = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(Path(__file__).parents[2]), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's orderings, hence its timings, depend on it
            start_new_session=True,  # Ctrl-C is for us; on Windows, the flag says so
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        # A thread, as a pipe has no timeout on every system.
        assert self._process.stdout is not None
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._replies), daemon=True).start()

    def _ensure_ready(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._start()
        if not self._ready and self._exchange(b"", START_TIMEOUT) != b"ready\n":
            self.stop()
            raise GradingError(
                f"the grading worker did not start within {START_TIMEOUT:.0f} s.\n"
                f"  See what is missing: {sys.executable} -c 'import latex2sympy2_extended'"
            )
        self._ready = True

    def _exchange(self, line: bytes, timeout: float) -> bytes:
        """Send a line and read one; b"" if the worker is late or gone."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            return self._replies.get(timeout=timeout)
        except (OSError, queue.Empty):
            return b""
        except BaseException:
            self.stop()  # after Ctrl-C, a late reply must not answer the next request
            raise


def _read_lines(stream: IO[bytes], replies: queue.SimpleQueue[bytes]) -> None:
    """Hand over the lines of a process as they come, and b"" at the end; `stream` is unbuffered.

    By hand: a buffered reader holds a lock while it reads, and a process forked then could never close it.
    """
    line = b""
    while chunk := stream.read(64):
        line += chunk
        if line.endswith(b"\n"):
            replies.put(line)
            line = b""
    stream.close()
    replies.put(b"")


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close our end of what is written to a process; the other pipe ends with it, and its reader closes that."""
    assert process.stdin is not None
    process.stdin.close()


WORKER = Worker()
atexit.register(WORKER.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKER.forget)
