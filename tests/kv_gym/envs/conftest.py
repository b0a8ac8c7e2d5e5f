"""Stand-ins for what would have to be downloaded: a random Llama and two problems in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_env import Offline
from transformers import GenerationConfig

from kv_gym.config import env_page
from kv_gym.llm.loading import EMBEDDED

ROWS = [
    {"id": "one", "problem": "What is 1 + 1?", "answer": "2", "trace": "1 + 1 is " + "2, or so. " * 15 + r"\boxed{2}"},
    {"id": "two", "problem": "What is 1 + 2?", "answer": "3", "trace": "1 + 2 is " + "3, I say. " * 15 + r"\boxed{3}"},
]


def endless(model: Path, folder: Path) -> Path:
    """A copy that never stops: with two problems and any seed, chance would now and then leave none long enough."""
    shutil.copytree(model, folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    GenerationConfig(eos_token_id=vocabulary).save_pretrained(folder)  # an id no logit stands for
    return folder


@pytest.fixture(scope="session")
def offline(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Offline:
    folder = tmp_path_factory.mktemp("problems")
    model = endless(random_model, folder / "model")

    def options(env_id: str) -> dict[str, Any]:
        settings = env_page(env_id).settings
        if settings.model in EMBEDDED:
            return {}
        path = folder / f"{settings.problems}.jsonl"
        kept = (
            ROWS if settings.problems == "traces" else [{k: v for k, v in row.items() if k != "trace"} for row in ROWS]
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        sizes = {"budget": 48, "evict_every": 16, "max_prompt_tokens": 128, "max_new_tokens": 176}
        return {"model": str(model), "dtype": "float32", "problems": str(path), **sizes}

    return options
