"""Two small recordings that are made by hand, so that every fact of the page can be counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kv_gym.show.recording import RecordedEpisode

EVERY, LAYERS, HEADS = 2, 2, 2
PROMPT = "x=1</script>\n"  # 13 tokens, one a character


def episode(agent: str = "left", reasoning: str = "y=x+1=2;abcdef", budget: int = 6, **changes: Any) -> RecordedEpisode:
    """An episode in which layer l, head h drops at each step the two oldest slots from position l + h on."""
    text = list(PROMPT + reasoning)
    first = budget + EVERY + 1  # tokens known before the first step
    n, n_steps = len(text), (len(text) - first + EVERY - 1) // EVERY
    steps = [
        {
            "length": budget + EVERY * (i + 2),
            "written": min(EVERY, n - first - EVERY * i),
            "evicted": [
                [[layer + head + EVERY * i, layer + head + EVERY * i + 1] for head in range(HEADS)]
                for layer in range(LAYERS)
            ],
            "loss_spike": 0.5 * (i == 1),
            "attention_spike": 0.1,
            "missed_attention": 0.15,
            "reward": 0.0,
        }
        for i in range(n_steps)
    ]
    surprisal = [0.01] * n
    surprisal[15] = 4.0  # the "x" of "y=x+1"
    values: dict[str, Any] = {
        "env_id": "KVEvict-AIME-v0", "mode": "generate", "split": "test", "agent": agent, "agent_source": f"m:{agent}",
        "agent_sha256": "0" * 64, "uses_hindsight": False, "evicts": True, "budget": budget, "evict_every": EVERY,
        "seed": 0, "problem": "p/0", "family": "f", "prompt": PROMPT, "gold": "2", "answer": "2", "correct": 1.0,
        "correct_full": 1.0, "stop": "eos", "n_prompt": len(PROMPT),
        "tokens": {
            "ids": [ord(character) for character in text], "text": text, "surprisal": surprisal,
            "surprisal_full": [0.02] * n, "entropy_full": [0.03] * n,
        },
        "steps": steps, "tokens_sha256": "1" * 64, "actions_sha256": "2" * 64,
        "model": {
            "name": "tiny", "revision": None, "dtype": "float32", "fingerprint": "3" * 64, "n_layers": LAYERS,
            "n_kv_heads": HEADS,
        },
        "settings": {}, "recorded": "2026-01-01T00:00:00+00:00", "command": "kv-gym record", "versions": {},
        "git": None,
    }  # fmt: skip
    return RecordedEpisode.model_validate(values | changes)


@pytest.fixture
def make_episode() -> Callable[..., RecordedEpisode]:
    return episode


@pytest.fixture
def left() -> RecordedEpisode:
    return episode()


@pytest.fixture
def right() -> RecordedEpisode:
    """The same up to the 16th token, longer, and wrong."""
    return episode("right", "y=xx1=3;abcdefghi", correct=0.0, answer="<img src=x onerror=alert(1)>")
