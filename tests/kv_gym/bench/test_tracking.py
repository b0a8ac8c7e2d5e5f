"""Numbers of a training reach a tracker; real ones have the interface of the one here (wandb 0.31, trackio 0.43)."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kv_agents.training.work import Work
from typer.testing import CliRunner

from kv_gym.bench.tracking import Tracker
from kv_gym.commands.main import app
from kv_gym.errors import ConfigError, UnknownNameError


class Library:
    """A tracker that remembers."""

    __spec__ = ModuleSpec("tracker", None)  # transformers looks whether there is one

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.told: list[tuple[dict[str, Any], int]] = []
        self.finished = 0

    def init(self, **how: Any) -> Any:
        self.begun.append(how)
        return SimpleNamespace(log=lambda row, step: self.told.append((row, step)), finish=self.finish)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setitem(sys.modules, "wandb", found)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "trackio", found)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_rows_are_told_as_they_are_added(name: Any, library: Library, tmp_path: Path) -> None:
    work = Work(tmp_path / "mine", {"recipe": "X", "lr": 0.1}, name)
    work.begin()
    work.add({"step": 3, "loss": 0.5, "by_budget": {"64": 1.5}, "note": "text", "kl": np.float32(0.25)})
    work.close()
    assert library.told == [({"loss": 0.5, "by_budget/64": 1.5, "kl": 0.25}, 3)] and library.finished == 1
    (begun,) = library.begun
    assert begun["project"] == "kv-gym" and begun["name"].startswith("mine-") and begun["resume"] == "allow"
    assert begun["config"] == {"recipe": "X", "lr": 0.1} and ("id" in begun) == (name == "wandb")


def test_a_training_that_resumes_goes_on_with_its_run_and_another_is_another(library: Library, tmp_path: Path) -> None:
    """Told late, it is told all; a run begins when training does, not before a state is refused."""
    work = Work(tmp_path / "mine", {"lr": 0.1}, None)
    work.add({"step": 1, "loss": 0.5})
    work.save({})
    work.close()
    again = Work(tmp_path / "mine", {"lr": 0.1}, "wandb")
    assert again.load() is not None and not library.begun
    again.begin()
    again.add({"step": 2, "loss": 0.25})
    again.save({})
    again.close()
    third = Work(tmp_path / "mine", {"lr": 0.1}, "wandb")
    third.load()
    third.begin()
    third.close()
    other = Work(tmp_path / "other" / "mine", {"lr": 0.1}, "wandb")
    other.begin()
    one, same, another = (begun["id"] for begun in library.begun)
    assert one == same != another and [step for _, step in library.told] == [1, 2] and library.finished == 2


def test_a_ppo_training_tells_what_stable_baselines_logs_too(library: Library, tmp_path: Path) -> None:
    knobs = ["steps=64", "width=4", "horizon=8", "batch=16", "epochs=1", "n_train=8", "n_validation=8", "budgets=[24]"]
    command = ["train", "ppo", "--track", "trackio", "--out", str(tmp_path / "p.safetensors"), "--work", str(tmp_path)]
    command += [part for knob in knobs for part in ("--set", knob)]
    for setting in ("evict_every=8", "max_new_tokens=300"):
        command += ["--env-set", setting]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [row for row, _ in library.told]
    assert any("validation_return" in row for row in rows) and any("train/approx_kl" in row for row in rows)
    steps = [step for _, step in library.told]
    assert steps == sorted(steps) and library.finished == 1


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        CliRunner().invoke(app, ["train", "distill", "--track", "wandb"], catch_exceptions=False)
    with pytest.raises(UnknownNameError, match="mlflow"):
        Tracker("mlflow", "mine", {})  # type: ignore[arg-type]


def test_a_library_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no api key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--track wandb: it cannot begin a run: RuntimeError: no api key"):
        Tracker("wandb", "mine", {})
