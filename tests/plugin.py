"""Somebody else's package, installed where only a process of its own finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from kv_gym import registry


def pretend(monkeypatch: pytest.MonkeyPatch, pretended: str, entries: Sequence[EntryPoint]) -> None:
    """Pretend that packages offer these in a group, and nothing else; other groups stay as they are."""

    def found(*, group: str) -> Sequence[EntryPoint]:
        return entries if group == pretended else entry_points(group=group)

    monkeypatch.setattr(registry, "entry_points", found)


PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "my-package"
version = "1.0"
"""


def install_package(folder: Path, modules: Mapping[str, str], entry_points: str) -> dict[str, str]:
    """Install `my_package`; return the variables of a process that finds it.

    Args:
        folder: Where it goes.
        modules: Source by module name.
        entry_points: TOML tables of `[project.entry-points...]`.
    """
    package, site = folder / "source" / "my_package", folder / "site"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)
    (folder / "source" / "pyproject.toml").write_text(PYPROJECT + entry_points)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(folder / "source")], check=True, timeout=120)
    return os.environ | {"PYTHONPATH": str(site)}


def run_python(environment: Mapping[str, str], *arguments: str) -> str:
    """Run Python with these arguments and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], env=dict(environment), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
