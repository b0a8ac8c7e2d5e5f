"""The worker, seen from inside: answer requests until nobody asks any more."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys

from kv_gym.problems.grading import answers, mathematics

MEMORY_LIMIT = 1024 * 2**20  # bytes of address space; the idle worker takes about a tenth
WARM_UP = [
    (r"\frac{x^2-1}{\sqrt{3}}", r"\frac{(x-1)(x+1)}{\sqrt{3}}"),
    ("(1, 2)", "(1, 3)"),
    (r"\{1, 2\}", r"2, 1+\sin(0)"),
    ("x < 3", r"(-\infty, 3)"),
]


def serve() -> None:
    """Answer requests, one JSON object a line on standard input, until the parent closes it."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no reply
    _limit_resources()
    mathematics.never_evaluate()
    for answer, gold in WARM_UP:  # sympy and the parser import and cache on first use
        answers.same(answer, gold)
    if hasattr(signal, "SIGPROF"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a parent may have had it ignored
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(request["cpu_seconds"], request["seconds"])
        same = answers.same(request["answer"], request["gold"])
        _limit_time(0, 0)
        replies.write(json.dumps(same).encode() + b"\n")


def _limit_time(cpu_seconds: float, seconds: float) -> None:
    """End the process by itself, even in the middle of C code, after so much time of each kind; 0 is no limit."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)  # should the parent be killed
    else:
        faulthandler.cancel_dump_traceback_later()


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {resource.RLIMIT_AS: MEMORY_LIMIT, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    for kind, limit in limits.items():
        try:
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):  # not every system has every limit; time is bounded all the same
            continue
