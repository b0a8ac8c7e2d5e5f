"""Tests never download anything, and all of them share one folder of reference generations, new for each run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # before huggingface_hub is imported

import pytest


@pytest.fixture(scope="session", autouse=True)
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this run stores its references."""
    folder = tmp_path_factory.mktemp("kv-gym-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KV_GYM_CACHE", str(folder))
        yield folder
