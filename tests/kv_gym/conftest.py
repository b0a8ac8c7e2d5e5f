"""A frozen LLM that decodes at a fraction of a millisecond a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def random_model(random_llama: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the random Llama."""
    folder = tmp_path_factory.mktemp("random-llama")
    model, tokenizer = random_llama
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
