"""The core runs without what only POSIX has, as on Windows: modules that cannot be imported, calls that are not there.

This is no test on Windows: paths, and how files are renamed and locked there, are not tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kv_gym.bench.rows import read_rows

# Libraries ask the platform's name, not what is there: what they need is loaded before it goes.
LIBRARIES = """
import huggingface_hub.hf_api, math_verify, torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
"""

WITHOUT = """
import os, signal, socket, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for module, name in ((os, "fork"), (os, "register_at_fork"), (os, "getuid"), (os, "fchmod"), (socket, "socketpair"),
                     (signal, "setitimer"), (signal, "alarm"), (signal, "SIGALRM")):
    delattr(module, name)
"""

BENCH = """
from kv_gym.commands.main import main
main("bench KVEvict-AIME-v0 --agent random --budget 64 --problems 2 --no-plot --mode generate --out out".split())
"""

GRADE = r"""
from kv_gym.errors import UndecidedError
from kv_gym.problems.grading import same_answer, worker
worker._BOOT = sys.argv[1] + worker._BOOT  # the worker lacks the same
for pair in ((r"\sqrt{16}", "4"), (r"\sqrt{16}", "5"), ("9^{9^{9^9}}-1", "4"), (r"\sqrt{16}", "4")):
    try:
        print(same_answer(*pair, cpu_seconds=0.3))  # without a timer for it: 3 s of wall time
    except UndecidedError:
        print("undecided")
"""

needs_posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to take away")


def run(code: str, cwd: Path) -> str:
    program = [sys.executable, "-c", LIBRARIES + WITHOUT + code, WITHOUT]
    done = subprocess.run(program, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_posix
def test_a_benchmark_runs_without_posix(tmp_path: Path) -> None:
    run(BENCH, tmp_path)
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert [row.failed for row in rows.episodes.values()] == [None, None]
    assert [row.correct_full for row in rows.episodes.values()] == [1.0, 1.0]


@needs_posix
def test_answers_are_compared_without_posix(tmp_path: Path) -> None:
    assert run(GRADE, tmp_path).split() == ["True", "False", "undecided", "True"]
