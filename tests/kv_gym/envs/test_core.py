"""Problems are solved beside those that come next, and nothing else changes by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kv_gym.engine import reference
from kv_gym.engine.memory import Asked, MemoryPlan
from kv_gym.envs.core import BESIDE, EvictionCore
from kv_gym.llm.outline import sizes_of

OPTIONS: dict[str, Any] = {"budget": 24, "evict_every": 8, "max_new_tokens": 60, "n_problems": 200, "shadow": False}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many references each generation makes."""
    counts: list[int] = []
    generate = reference.generate_references

    def counted(llm: Any, problems: list[Any], *rest: Any) -> Any:
        counts.append(len(problems))
        return generate(llm, problems, *rest)

    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path))
    monkeypatch.setattr(reference, "generate_references", counted)
    return counts


def started(core: EvictionCore, rngs: list[np.random.Generator]) -> list[str]:
    core.reset(range(core.n), rngs, [None] * core.n)
    return [core.reference(row).problem.id for row in range(core.n)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_next_problems_are_solved_beside_new_ones(random_model: Path, made: list[int], temperature: float) -> None:
    options = OPTIONS | {"model": str(random_model), "temperature": temperature}
    core, rngs = EvictionCore("KVEvict-AIME-v0", 2, options, None), [np.random.default_rng(i) for i in (1, 2)]
    ids = [started(core, rngs) for _ in range(4)]
    # A problem whose sampled text is too short gives way to the one behind it, which nobody foresaw.
    foreseen = [count for count in made if count >= BESIDE]
    assert foreseen == [8], "four episodes of two rows are what was looked ahead"
    ids += [started(core, rngs) for _ in range(4)]
    foreseen = [count for count in made if count >= BESIDE]
    assert foreseen == [8, 16], "a new one is made with twice as many"
    assert temperature or made == foreseen
    alone = [np.random.default_rng(i) for i in (1, 2)]
    for found in ids if not temperature else ():  # looking ahead does not move the generators
        assert found == [core.problems.problem(_draw(rng, core.problems.size)).id for rng in alone]


def _draw(rng: np.random.Generator, size: int) -> int:
    index = int(rng.integers(size))
    rng.integers(2**32)
    return index


def test_few_problems_are_solved_once(random_model: Path, made: list[int]) -> None:
    core = EvictionCore("KVEvict-AIME-v0", 1, OPTIONS | {"model": str(random_model), "n_problems": 3}, None)
    rngs = [np.random.default_rng(0)]
    for _ in range(12):
        started(core, rngs)
    assert sum(made) == 3


def test_a_problem_that_somebody_chose_is_solved_too(random_model: Path, made: list[int]) -> None:
    core = EvictionCore("KVEvict-AIME-v0", 1, OPTIONS | {"model": str(random_model)}, None)
    core.reset([0], [np.random.default_rng(0)], [7])
    assert core.reference(0).problem.id == core.problems.problem(7).id and made == [8]


def test_texts_side_by_side_fit_into_memory(
    random_model: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = EvictionCore("KVEvict-AIME-v0", 1, OPTIONS | {"model": str(random_model)}, None)
    plan = MemoryPlan(sizes_of(core.llm.model, torch.float32, torch.device("cpu")), core.config, Asked())
    for room, width in ((plan.references(3).peak, 3), (0, 1)):
        free = room - plan.sizes.weights
        monkeypatch.setattr("kv_gym.envs.core.free_memory", lambda device, free=free: free)
        monkeypatch.setattr("kv_gym.envs.core.usable", lambda memory, device: memory)
        made.clear()
        core.reset([0], [np.random.default_rng(width)], [None])
        assert made == [width]


def test_what_is_solved_ahead_is_what_any_row_draws_next(random_model: Path, made: list[int]) -> None:
    """Rows end one after another; the first that starts anew makes the texts of those that follow."""
    core = EvictionCore("KVEvict-AIME-v0", BESIDE, OPTIONS | {"model": str(random_model)}, None)
    rngs = [np.random.default_rng(row) for row in range(BESIDE)]
    started(core, rngs)
    for row in range(BESIDE):
        core.reset([row], rngs, [None])
    assert len(made) == 2, "those that begin, and all that follow"
