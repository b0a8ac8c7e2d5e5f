"""`kv-gym watch`: what it plays, what it prints where, and how mistakes read."""

from __future__ import annotations

import io
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from frame_by_hand import hand_made
from PIL import Image
from plugin import pretend
from rich.console import Console

from kv_gym import agents
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.commands import main as cli
from kv_gym.commands.watch import _answer_line, _show_live, show

ENV = "KVEvict-AIME-v0"
SETTINGS = {"max_new_tokens": 72, "evict_every": 8}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"full": "heuristics.full:FullCache", "golden": "golden:Golden", "h2o": "heuristics.h2o:H2O"}
    entries = [EntryPoint(name, f"kv_agents.{place}", agents.GROUP) for name, place in places.items()]
    pretend(monkeypatch, agents.GROUP, entries)


def watch(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Call the program; return (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["watch", ENV, *map(str, arguments)])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


@pytest.fixture
def small(random_model: Path) -> list[str]:
    return [f"--set=model={random_model}", *(f"--set={key}={value}" for key, value in SETTINGS.items())]


@pytest.mark.parametrize("agent", ["h2o", "golden"])
@pytest.mark.parametrize("mode", ["generate", "replay"])
def test_piped_episode_is_the_one_that_bench_plays(
    agent: str, mode: str, small: list[str], random_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = watch(capsys, "--agent", agent, "--budget", 24, "--problem", 1, "--mode", mode, *small)
    assert code == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out)
    options = {**SETTINGS, "model": str(random_model), "split": "test"}
    plan = Bench(ENV, [agents.load_agent(agent)], [24], 2, 1, [mode], 2, options)  # type: ignore[list-item]
    rows = [row for row in run_bench(plan, tmp_path / "rows.jsonl").rows if row.agent == agent]
    row = next(row for row in rows if row.problem == "aime/test/0/1")
    assert f"step {row.n_steps} " in out and "aime/test/0/1" in out
    assert ("RIGHT ANSWER" if row.correct else "WRONG ANSWER") in out
    lines = out.splitlines()[-3:]
    assert lines[0].startswith(agent) and lines[1].startswith("full cache") and lines[2].startswith("gold answer")


def test_first_playable_problem_is_the_default(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = watch(capsys, "--agent", "h2o", "--budget", 24, *small)
    assert code == 0 and re.search(r"aime/test/0/\d+", out)


def test_picture_is_the_last_frame(small: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "frame"
    code, _, _ = watch(capsys, "--agent", "h2o", "--budget", 24, "--picture", path, *small)
    assert code == 0
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1280, 720))


MISTAKES = {
    "full": (["--agent", "full"], "agent 'full' evicts nothing"),
    "unknown agent": (["--agent", "h20"], "unknown agent 'h20'. Did you mean 'h2o'"),
    "problem": (["--agent", "h2o", "--problem", "5000"], "problem=5000 is not in this env"),
    "mode": (["--agent", "h2o", "--mode", "both"], "mode='both' is not allowed.*generate.*replay"),
    "split": (["--agent", "h2o", "--split", "exam"], "split='exam' is not allowed"),
    "setting": (["--agent", "h2o", "--set", "budgets=3"], "Did you mean 'budget'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_with_one_message(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = MISTAKES[case]
    code, out, error = watch(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, error)


def test_terminal_sees_every_frame() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=30, color_system="256", _environ={})
    last = _show_live(console, iter([hand_made(step=1), hand_made(step=2)]), 0)
    assert last.step == 2
    assert "step 1" in out.getvalue() and "step 2" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_no_terminal_sees_the_last_frame(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(iter([hand_made(step=1), hand_made(step=2)]), delay=1000).step == 2  # nobody waits
    out = capsys.readouterr().out
    assert "step 2" in out and "step 1" not in out


def test_stopping_is_no_failure(
    small: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kv_gym.commands.watch.show", stop)
    code, _, error = watch(capsys, "--agent", "h2o", "--budget", 24, *small)
    assert code == 130 and "Stopped after step 0." in error


def test_answers_are_one_safe_bounded_line() -> None:
    assert _answer_line("h2o", "1\x1b[31m\n2", "WRONG") == "h2o".ljust(21) + "1\ufffd[31m 2".ljust(21) + "WRONG"
    assert _answer_line("h2o", None, "") == "h2o".ljust(21) + "(no answer)"
    assert len(_answer_line("h2o", "9" * 1000, "")) < 150
