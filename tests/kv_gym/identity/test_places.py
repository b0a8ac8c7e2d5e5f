"""Sources are found without importing anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kv_gym.identity.places import find


def test_folders_without_init_are_found_in_packages_that_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importlib raises KeyError there: it asks for the module of the outer package."""
    inner = tmp_path / "outer_of_places" / "tests" / "data"
    inner.mkdir(parents=True)
    (inner / "rule.py").write_text("K = 1\n")
    for folder in (inner.parent, inner.parent.parent):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("outer_of_places.tests.data.rule") == inner / "rule.py"
    assert find("outer_of_places.tests.data") is None and find("outer_of_places.tests.none.rule") is None
    assert "outer_of_places" not in sys.modules
