"""The commit of a row is that of the source tree, and of no other repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kv_gym.bench import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package, committed."""
    folder = tmp_path / "repository" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("1")
    git(folder, "init", "-q", "..")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_tree_gives_its_commit(package: Path) -> None:
    assert provenance.git_state(package) == {"commit": git(package, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_changed_and_new_files_make_it_dirty(package: Path, name: str) -> None:
    (package / name).write_text("2")
    state = provenance.git_state(package)
    assert state is not None and state["dirty"] is True


def test_what_a_run_writes_does_not_make_it_dirty(package: Path) -> None:
    output = package.parent / "results" / "one"
    output.mkdir(parents=True)
    (output / "rows.jsonl").write_text("{}")
    state, without = provenance.git_state(package, output), provenance.git_state(package)
    assert state is not None and state["dirty"] is False
    assert without is not None and without["dirty"] is True
    (output.parent / "other.txt").write_text("2")
    whole = provenance.git_state(package, package.parent)  # results in the root hide nothing
    assert whole is not None and whole["dirty"] is True
    state = provenance.git_state(package, output)
    assert state is not None and state["dirty"] is True


def test_outside_git_there_is_no_commit(tmp_path: Path) -> None:
    assert provenance.git_state(tmp_path) is None


def test_a_package_installed_into_another_repository_has_no_commit(package: Path) -> None:
    installed = package.parent / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("1")
    assert provenance.git_state(installed) is None


def test_a_repository_without_commits_has_none(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    assert provenance.git_state(tmp_path) is None


def test_versions_hardware_and_command_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = provenance.versions()
    assert set(found) >= {"kv_gym", "python", "torch", "transformers", "gymnasium", "numpy"}
    assert found["torch"] == torch.__version__ and "unknown" not in found.values()
    machine = provenance.hardware(torch.device("cpu"))
    assert machine["device"] == "cpu" and machine["cpu"] and machine["platform"]
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/kv-gym", "bench", "an id"])
    assert provenance.command() == "kv-gym bench 'an id'"
