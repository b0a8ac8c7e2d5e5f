"""State and log of a training: one thing, for one process, of one training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kv_agents.training.work import LOG_FILE, STATE_FILE, Work

from kv_gym.errors import ConfigError
from kv_gym.files import InUseError

WHO = {"recipe": "R", "lr": 0.5, "budgets": (48, 64), "env": "E"}


def saved(folder: Path) -> None:
    work = Work(folder, WHO)
    work.log.append({"step": 0, "loss": 1.0})
    work.save({"step": 0, "weights": torch.ones(3)})
    work.close()


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / LOG_FILE).write_text('{"step": 0}\n{"step": 1}\n{"ste')  # what a kill between the two leaves, and more
    work = Work(tmp_path, WHO)
    state = work.load()
    assert state is not None and state["step"] == 0 and torch.equal(state["weights"], torch.ones(3))
    assert work.log == [{"step": 0, "loss": 1.0}]
    assert [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()] == work.log
    work.close()


def test_a_new_folder_has_no_state(tmp_path: Path) -> None:
    work = Work(tmp_path / "new", WHO)
    assert work.load() is None and work.log == []
    work.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 100, b"PK\x03\x04", b"hello", "half", "list", "other"],
    ids=["empty", "zeros", "zip head", "text", "half", "a list", "other keys"],
)
def test_a_damaged_state_is_refused_in_a_sentence(data: bytes | str, tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / STATE_FILE
    if data == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif data == "list":
        torch.save([1, 2], path)
    elif data == "other":
        torch.save({"recipe": {}, "round": 3}, path)
    else:
        assert isinstance(data, bytes)
        path.write_bytes(data)
    work = Work(tmp_path, WHO)
    with pytest.raises(ConfigError, match=r"state.pt is damaged, or no state of a training .*Delete it, or use"):
        work.load()
    work.close()


@pytest.mark.parametrize(
    ("change", "name"), [({"lr": 0.1}, "lr"), ({"env": "F"}, "env"), ({"recipe": "Q"}, "recipe"), ({"more": 1}, "more")]
)
def test_a_state_of_another_training_is_refused(change: dict[str, object], name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    work = Work(tmp_path, WHO | change)
    with pytest.raises(ConfigError, match=rf"was made with other settings \({name}\)"):
        work.load()
    work.close()


def test_one_trains_in_a_folder_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kv_agents.training.work import Work\n"
        "work = Work(Path(sys.argv[1]), {}); print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(InUseError, match=r"another process is writing the state of a tr.*use another --work"):
            Work(tmp_path, WHO)
        other.kill()
        other.wait()
    Work(tmp_path, WHO).close()  # a kill lets go of it


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    saved(tmp_path)
    drafts = [tmp_path / f".{name}.4711.tmp" for name in (STATE_FILE, LOG_FILE)]
    for draft in drafts:
        draft.write_bytes(b"half")
    Work(tmp_path, WHO).close()
    assert not any(draft.exists() for draft in drafts)
    assert (tmp_path / STATE_FILE).exists() and (tmp_path / LOG_FILE).exists()
