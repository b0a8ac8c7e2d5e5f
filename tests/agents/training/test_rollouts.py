"""Rollouts are the same whoever plays them beside whatever else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from kv_agents.learned.inputs import all_of, read_inputs, width
from kv_agents.learned.scorer import Scorer, ScorerConfig
from kv_agents.training.course import Course
from kv_agents.training.grpo import GRPORecipe, Tuner
from kv_agents.training.rollouts import Groups, Policy, Rollouts, joined, roll

from kv_gym.bench.workers import Lost, Task, WorkerError, Workers
from kv_gym.engine.episodes import EpisodeBatch

OPTIONS = {"evict_every": 4, "max_new_tokens": 120, "max_prompt_tokens": 120}


@pytest.fixture(scope="module")
def course() -> Course:
    made = Course("KVEvict-AIME-v0", OPTIONS, (), 8, 3)
    made.train = [replace(reference, correct=1.0) for reference in made.train]
    return made


@pytest.fixture(scope="module")
def policy(course: Course) -> Policy:
    """A random scorer that was standardised on what it reads."""
    torch.manual_seed(0)
    shape, columns = course.llm.shape, all_of(("keys", "age"))
    scorer = Scorer(ScorerConfig(("keys", "age"), 8, False, shape.n_layers, shape.n_kv_heads, width(columns, shape)))
    config = course.config(20, "replay")
    batch = EpisodeBatch(course.llm, config, 2)
    batch.reset([0, 1], course.playable(course.train, config)[:2], [0, 0])
    scorer.standardise(read_inputs(batch.slots(), columns))
    return Policy(scorer.config, scorer.state_dict(), scale=1.0, temperature=0.15, picks=True)


@pytest.fixture(scope="module")
def groups(course: Course) -> Groups:
    config = course.config(20, "replay", w_loss=0.02)
    return Groups(config, course.playable(course.train, config)[:3], [5, 6, 7], 4, "decision", 0.9)


def same(one: Rollouts, other: Rollouts) -> None:
    """Up to what a batch's width does to the last digits."""
    assert one.made == other.made
    for name in ("inputs", "log_prob", "advantage", "returns", "correct"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_batch_are_the_batch(course: Course, policy: Policy, groups: Groups, parts: int) -> None:
    whole = roll(course.llm, policy, groups)
    assert len(whole.returns) == 12 and len(whole.advantage) > 12
    split = groups.split(parts)
    assert len(split) == min(parts, 3) and [seed for part in split for seed in part.luck] == [5, 6, 7]
    same(joined([roll(course.llm, policy, part) for part in split]), whole)


def test_groups_with_other_luck_draw_otherwise(course: Course, policy: Policy, groups: Groups) -> None:
    one, other = (roll(course.llm, policy, replace(groups, luck=luck)) for luck in ([5, 6, 7], [5, 6, 8]))
    assert torch.equal(one.returns[:8], other.returns[:8]) and not torch.equal(one.returns[8:], other.returns[8:])


class Crew:
    """Workers that are this process, and end in another order than they began."""

    def __init__(self, course: Course, lost: bool = False) -> None:
        self.course, self.lost, self.workers = course, lost, Workers(2)

    def do(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        for task in reversed(tasks):
            function, *arguments = task.arguments
            yield task, Lost("it hung.") if self.lost else function(self.course.llm, *arguments)


def test_a_tuner_gets_from_workers_what_it_would_play(course: Course, policy: Policy, tmp_path: Any) -> None:
    recipe = GRPORecipe(budgets=(20,), problems=3, group=4, n_train=8, n_validation=3)
    tuner = Tuner(course, recipe, tmp_path)
    alone, numbers = tuner._roll(0)
    tuner.crew = Crew(course)  # type: ignore[assignment]
    apart, theirs = tuner._roll(0)
    same(apart, alone)
    assert theirs == pytest.approx(numbers, abs=1e-3)
    tuner.crew = Crew(course, lost=True)  # type: ignore[assignment]
    with pytest.raises(WorkerError, match="could not be played. it hung"):
        tuner._roll(0)
