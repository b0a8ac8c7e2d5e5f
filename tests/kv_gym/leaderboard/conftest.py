"""A protocol that takes a second."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "small.yaml"
    path.write_text(
        "id: small\nsplit: test\nseeds: 1\nwidth: 4\n"
        "cells: [{env_id: KVEvict-AIME-v0, model: tiny, budgets: [160], problems: 4}]\n"
    )
    return path
