"""`kv-gym references`: texts are made once, and environments find them; off a terminal it says how far it is."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

from kv_gym.commands import console
from kv_gym.commands import main as cli
from kv_gym.engine import reference

ENV = "KVEvict-AIME-v0"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["references", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path))
    return tmp_path


def test_texts_are_made_once_and_found(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = call(capsys, ENV, "--problems", 3)
    assert code == 0 and out.startswith("3 full-cache texts of the train split, 3 of them new:")
    assert "3 can be played at budget 128, evict_every 16" in out
    code, out, _ = call(capsys, ENV, "--problems", 4, "--width", 2, "--budget", 480)
    assert (
        code == 0
        and "4 full-cache texts of the train split, 1 of them new" in out
        and "1 can be played at budget 480" in out
    )

    def none(*_: object, **__: object) -> None:
        raise AssertionError("the text is there already")

    monkeypatch.setattr(reference, "generate_references", none)
    env = gymnasium.make(ENV, split="train", n_problems=4)
    for problem in range(4):
        env.reset(seed=problem, options={"problem": problem})


def test_drawn_texts_cannot_be_made_in_advance(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, ENV, "--set", "temperature=0.6")
    assert code == 2 and "temperature=0.6: texts are drawn" in err and "Traceback" not in err


def test_off_a_terminal_a_line_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.BarProgress() as progress:
        progress.begin("episodes", 8)
        progress.describe("rkv, budget 64")
        for seconds in (10, 15, 31, 20, 70):  # lines at 31 and at 70: half a minute after the one before
            now[0] = 100 + seconds
            progress.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "episodes: 3 of 8 after 0.5 minutes, rkv, budget 64", "episodes: 5 of 8 after 1.2 minutes, rkv, budget 64",
    ]  # fmt: skip
