"""Troubles with files, signals and terminals end in one sentence, and lose nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kv_gym.bench.rows import read_rows
from kv_gym.commands.system import REMEDIES, trouble

BENCH = [
    "bench", "KVEvict-AIME-v0", "--agent", "random", "--budget", "64", "--problems", "2", "--mode", "replay",
    "--no-plot",
]  # fmt: skip


def kv_gym(*arguments: str, cwd: Path, shell: str = "", **variables: str) -> tuple[int, str]:
    """Run the program; `shell` comes before it. Return (exit code, stderr)."""
    program = [sys.executable, "-m", "kv_gym.commands.main", *arguments]
    done = subprocess.run(
        ["bash", "-c", f'{shell} "$@"', "kv-gym", *program], cwd=cwd, env=os.environ | variables, capture_output=True,
        text=True, timeout=120, errors="replace",
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


CASES: dict[str, tuple[list[str], dict[str, str], int, str]] = {
    "out is a file": ([*BENCH, "--out", "file"], {}, 2, "FileError: file: File exists. There is a file where a folder"),
    "out below a file": ([*BENCH, "--out", "file/x"], {}, 2, "file/x: Not a directory. There is a file where a folder"),
    "a name that is too long": ([*BENCH, "--out", "x" * 300], {}, 2, "File name too long. Choose a shorter name"),
    "no such device": ([*BENCH, "--out", "/proc/kv/x"], {}, 2, "/proc/kv"),
    "the cache is a file": ([*BENCH, "--out", "o"], {"KV_GYM_CACHE": "file"}, 2, "KV_GYM_CACHE='file' is a file"),
    "rows are no gzip": (["report", "rows.jsonl.gz"], {}, 2, "rows.jsonl.gz is no gzip file, or damaged"),
    "pages into a file": (["envs", "--pages", "file"], {}, 2, "--pages file: this is a file"),
    "a page into a folder": (["replay", "no.json.gz", "--html", "."], {}, 2, "no.json.gz does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_trouble_with_files_is_one_sentence(case: str, tmp_path: Path) -> None:
    arguments, variables, expected, said = CASES[case]
    (tmp_path / "file").touch()
    (tmp_path / "rows.jsonl.gz").write_bytes(b"no gzip")
    code, told = kv_gym(*arguments, cwd=tmp_path, **variables)
    assert code == expected and said in told


def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    code, told = kv_gym(*BENCH, "--out", "o", cwd=tmp_path, KV_GYM_CACHE="/proc/kv-gym")
    assert code == 0 and told.count("references cannot be stored in /proc/kv-gym") == 1
    assert len(read_rows(tmp_path / "o" / "rows.jsonl").episodes) == 2


def test_a_file_that_may_not_grow_keeps_what_it_has(tmp_path: Path) -> None:
    code, told = kv_gym(*BENCH, "--out", "o", cwd=tmp_path, shell="ulimit -f 4;", KV_GYM_CACHE=str(tmp_path / "c"))
    assert code == 1 and "o/rows.jsonl: File too large. The limit of a file's size is reached (ulimit -f)" in told
    before = (tmp_path / "o" / "rows.jsonl").read_bytes()
    code, told = kv_gym(*BENCH, "--out", "o", cwd=tmp_path)
    whole = before[: before.rfind(b"\n") + 1]
    assert code == 0 and (tmp_path / "o" / "rows.jsonl").read_bytes().startswith(whole)
    assert len(read_rows(tmp_path / "o" / "rows.jsonl").episodes) == 2


def test_a_closed_stdout_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "kv-gym", sys.executable, "-m", "kv_gym.commands.main", "envs"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("FileError: stdout is closed")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true', "kv-gym", sys.executable, "-m", "kv_gym.commands.main", "agents"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_goes_on_later(number: signal.Signals, tmp_path: Path) -> None:
    """Also where the tests run in the background of a script, which has Ctrl-C ignored in all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "kv_gym.commands.main", *BENCH, "--out", "o"]
    command[command.index("2")] = "24"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        rows = tmp_path / "o" / "rows.jsonl"
        while not (rows.exists() and rows.read_bytes().count(b"\n") > 2) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    signal.signal(signal.SIGINT, before)
    assert process.returncode == 130 and "Traceback" not in told, told
    assert "Stopped. The rows so far are in o/rows.jsonl; the same command goes on" in " ".join(told.split())


AGENT = """
import os, sys
from kv_agents.base import Agent

class Odd(Agent):
    name = "odd"
    def score(self, slots):
        if int(slots.decision.max()) == 1 and not os.path.exists("mended"):
            {act}
        return slots.positions.float()
"""


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("os.chdir('/')", "AgentTouched: it changed the working directory and left it so"),
        ("sys.stdout.close()", "AgentTouched: it changed sys.stdout and left it so"),
        ("sys.stderr.close()", "AgentTouched: it changed sys.stderr and left it so"),
    ],
)
def test_what_an_agent_does_to_the_process_fails_it_and_is_reported(act: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(AGENT.format(act=act))
    arguments = [*BENCH, "--agent", "odd.py:Odd", "--out", "o"]
    program = [sys.executable, "-m", "kv_gym.commands.main", *arguments]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "odd" in done.stdout and "o/rows.jsonl" in " ".join(done.stderr.split())
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert {cell["agent"]: said in str(cell["failure"]) for cell in report["cells"]} == {"odd": True, "random": False}


def test_an_agent_that_ends_the_process_is_named_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(AGENT.format(act="os._exit(0)"))
    arguments = [*BENCH, "--agent", "odd.py:Odd", "--out", "o"]
    assert kv_gym(*arguments, cwd=tmp_path)[0] == 0
    for _ in range(2):
        code, told = kv_gym(*arguments, cwd=tmp_path)
        assert code == 0 and "the last run ended while odd at budget 64 in replay mode was playing" in told
    (tmp_path / "mended").touch()
    code, told = kv_gym(*arguments, cwd=tmp_path)
    assert code == 0 and "the last run ended while odd" in told
    assert "the last run" not in kv_gym(*arguments, cwd=tmp_path)[1]
    assert len(read_rows(tmp_path / "o" / "rows.jsonl").episodes) == 4


def test_a_plain_terminal_gets_plain_text(tmp_path: Path) -> None:
    code, _ = kv_gym(*BENCH, "--out", "o", cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", COLUMNS="20")
    assert code == 0 and json.loads((tmp_path / "o" / "report.json").read_text())["n_problems"] == 2


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_every_trouble_names_file_reason_and_remedy(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = trouble(OSError(number, os.strerror(number), "some/file"))
    assert code == (1 if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else 2)
    assert capsys.readouterr().err == f"FileError: some/file: {os.strerror(number)}. {REMEDIES[number]}\n"


def test_references_are_stored_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended when a kill comes is there, with the permissions that the umask gives."""
    from kv_gym.config import make_config
    from kv_gym.engine.reference import ReferenceStore
    from kv_gym.llm.loading import load_llm
    from kv_gym.problems import list_problems

    config = make_config("KVEvict-AIME-v0", n_problems=6)
    store = ReferenceStore(load_llm("tiny"), config, tmp_path)
    there: list[int] = []

    def stop(n: int) -> None:
        there.append(len(list(store.folder.iterdir())))
        if len(there) == 3:
            raise KeyboardInterrupt

    counted: Callable[[int], None] = stop
    with pytest.raises(KeyboardInterrupt):
        store.get(list_problems(config), progress=counted)
    assert there == [1, 2, 3]
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in store.folder.iterdir()} == {0o666 & ~mask}
    again = ReferenceStore(load_llm("tiny"), config, tmp_path)
    assert sum(again.knows(again.key(problem, 0)) for problem in list_problems(config)) == 3
