"""Every file in examples/ runs, short, and ends with a table of the bench."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
NEEDS = {
    "rllib_ppo": ("ray.rllib", "RLlib is not installed, or not with the Gymnasium that it wants"),
    "tianshou_ppo": ("tianshou", "Tianshou is not installed"),
}
SHORT = {
    "rllib_ppo": ["--steps", "128", "--problems", "2"],
    "tianshou_ppo": ["--steps", "128", "--problems", "2"],
    "own_agent": ["--problems", "2"],
    "ppo_cleanrl": ["--steps", "256", "--horizon", "16", "--problems", "2"],
    "ppo_sb3": ["--steps", "512", "--problems", "2"],
    "torchrl_ppo": ["--steps", "512", "--problems", "2"],
    "offline_bc": ["--episodes", "2", "--updates", "20", "--problems", "2", "--weighted"],
}


def test_all_are_tried() -> None:
    assert sorted(SHORT) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", SHORT)
def test_example_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module, reason = NEEDS.get(name, ("kv_gym", ""))
    try:
        importlib.import_module(module)
    except ImportError:
        pytest.skip(reason)
    monkeypatch.setattr(sys, "argv", [name, *SHORT[name]])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert "| Accuracy, % [95% interval] | 96 |" in capsys.readouterr().out


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((FOLDER / "quickstart.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    short = [cell.replace("steps=40", "steps=2").replace("problems=16", "problems=2") for cell in cells]
    made: dict[str, object] = {}
    for i, cell in enumerate(short):
        exec(compile(cell, f"quickstart.ipynb, cell {i}", "exec"), made)
    assert short != cells and {"report", "unique"} <= set(made)
