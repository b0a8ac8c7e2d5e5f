"""`kv-gym dataset`: made, shown, listed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_gym.commands.main import main

MAKE = [
    "dataset", "make", "KVEvict-AIME-v0", "--agent", "rkv,lam=0.3", "--budget", "52", "--episodes", "2", "--split",
    "test", "--set", "evict_every=4", "--set", "max_new_tokens=128",
]  # fmt: skip


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_made_shown_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert run("dataset", "show") == 0
    assert "No dataset of kv-gym is here" in capsys.readouterr().out
    assert run(*MAKE, "--out", "mine/rkv-v0") == 0
    made = capsys.readouterr().out
    assert made.startswith("mine/rkv-v0: rkv on KVEvict-AIME-v0, 52 slots, replay.\n2 episodes, ") and "lam=0.3" in made
    assert run("dataset", "show", "mine/rkv-v0") == 0
    assert capsys.readouterr().out == made
    assert run("dataset", "show") == 0
    assert capsys.readouterr().out == "mine/rkv-v0\n"
    assert run(*MAKE, "--out", "mine/rkv-v0") == 2
    assert "Use another version" in capsys.readouterr().err
    assert run("dataset", "show", "mine/none-v0") == 2
