"""The ranking loss by hand, and that distillation learns and resumes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_agents.learned import checkpoints
from kv_agents.learned.policy import order_log_prob
from kv_agents.training.course import Course
from kv_agents.training.distill import (
    Distiller,
    DistillRecipe,
    Lesson,
    eviction_recall,
    kept_attention,
    order_loss,
    ranking_loss,
)
from stopping import finished, without_seconds

from kv_gym.errors import ConfigError

GOLDEN = torch.tensor([0.5, 0.1, 0.3, 0.9])


def lesson(golden: torch.Tensor = GOLDEN, protected: tuple[bool, ...] = (False, False, False, True)) -> Lesson:
    shape = (1, 1, 1, len(golden))
    return Lesson(torch.empty(0), golden.reshape(shape), torch.tensor(protected).reshape(shape), evict_every=1)


def test_ranking_loss_by_hand() -> None:
    scores = torch.tensor([0.2, 0.25, 0.0, -5.0]).reshape(1, 1, 1, 4)
    # golden order 0 > 2 > 1, slot 3 is protected. Leads: 0-2 0.2, 0-1 -0.05, 2-1 -0.25; margin 0.1
    every = (0.0 + 0.15 + 0.35) / 3
    assert abs(float(ranking_loss(scores, lesson(), 0.1, "all")) - every) < 1e-6
    cut = (0.15 + 0.35) / 2  # golden evicts slot 1; pairs of it with the slots that stay
    assert abs(float(ranking_loss(scores, lesson(), 0.1, "cut")) - cut) < 1e-6


def test_regret_weights_pairs_by_what_they_would_lose() -> None:
    scores = torch.tensor([0.2, 0.25, 0.0, -5.0]).reshape(1, 1, 1, 4)
    expected = (0.15 * 0.4 + 0.35 * 0.2) / (0.4 + 0.2)  # slot 1 against 0 and 2, golden 0.1 against 0.5 and 0.3
    assert abs(float(ranking_loss(scores, lesson(), 0.1, "regret")) - expected) < 1e-6


def test_kept_attention_by_hand() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 4)  # evicts slot 0, golden slot 1
    assert abs(float(kept_attention(scores, lesson())) - (0.1 + 0.3 + 0.9) / (0.5 + 0.3 + 0.9)) < 1e-6


def test_ranking_loss_ignores_equal_golden_scores() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, 0.0]).reshape(1, 1, 1, 4)
    assert float(ranking_loss(scores, lesson(torch.tensor([0.3, 0.3, 0.3, 0.9])), 0.1, "all")) == 0


def test_eviction_recall_by_hand() -> None:
    golden = torch.tensor([0.5, 0.1, 0.3, 0.2, 0.9])
    two = Lesson(torch.empty(0), golden.reshape(1, 1, 1, 5), torch.zeros(1, 1, 1, 5, dtype=torch.bool), 2)
    scores = torch.tensor([0.0, 0.1, 0.5, 0.6, 0.7]).reshape(1, 1, 1, 5)  # evicts 0 and 1, golden 1 and 3
    assert eviction_recall(scores, two).tolist() == [[[0.5]]]


@pytest.mark.parametrize("protected", [False, True])
def test_order_loss_has_the_gradient_of_the_expected_cost(protected: bool) -> None:
    """Three slots, all orders enumerated: the expected scaled gain of the ranking, differentiated exactly.

    A row beside them in which fewer slots are free changes nothing.
    """
    label, scores = torch.tensor([0.6, 0.1, 0.3]), torch.tensor([0.2, 0.5, -0.1])
    three = Lesson(torch.empty(0), label.reshape(1, 1, 1, 3), torch.zeros(1, 1, 1, 3, dtype=torch.bool), 1)
    exact = scores.clone().requires_grad_()
    expected = torch.zeros(())
    for order in itertools.permutations(range(3)):
        cost = sum(place * float(label[slot]) for place, slot in enumerate(order))
        gain = (1.5 - cost) / (1.5 - 0.5)  # the worst order is 1, 2, 0, the best 0, 2, 1
        expected = expected + gain * order_log_prob(exact[list(order)], 3).exp()
    expected.backward()
    assert exact.grad is not None
    torch.manual_seed(0)
    n = 2000 + protected
    many = scores.repeat(n, 1, 1, 1).requires_grad_()
    mask = torch.zeros(n, 1, 1, 3, dtype=torch.bool)
    mask[2000:, ..., 1] = True
    order_loss(many, Lesson(torch.empty(0), three.golden.expand(n, 1, 1, 3), mask, 1), 32).backward()
    assert many.grad is not None and many.grad[2000:, ..., 1].eq(0).all()
    torch.testing.assert_close(-many.grad[:2000].sum((0, 1, 2)) * 3, exact.grad, atol=0.01, rtol=0)


SMALL = {"budgets": (20,), "width": 4, "rows": 4, "n_train": 12, "n_validation": 4}
OPTIONS = {"evict_every": 4, "max_new_tokens": 200, "max_prompt_tokens": 120}


@pytest.fixture(scope="module")
def course() -> Course:
    made = Course("KVEvict-AIME-v0", OPTIONS, (), 12, 4)
    made.train = [cut(reference) for reference in made.train]
    made.validation = [cut(reference) for reference in made.validation]
    return made


def cut(reference):
    """The first tokens of a reference, called right: short episodes are enough here."""
    from dataclasses import replace

    n = reference.n_prompt + 60
    return replace(
        reference, tokens=reference.tokens[:n], surprisal=reference.surprisal[:n], entropy=reference.entropy[:n],
        correct=True,
    )  # fmt: skip


def recipe(**changes: object) -> DistillRecipe:
    return DistillRecipe(**{**SMALL, "rounds": 12, "golden_rounds": 8, **changes})  # type: ignore[arg-type]


def test_distillation_raises_the_recall_of_golden_evictions(course: Course, tmp_path: Path) -> None:
    trainer = Distiller(course, recipe(), tmp_path)
    trainer._teach(0)
    before = trainer.validate()
    for number in range(1, 12):
        trainer._teach(number)
    after = trainer.validate()
    assert after["recall"] > before["recall"] + 0.05, (before, after)
    assert after["validation_loss"] < before["validation_loss"]


def test_distillation_resumes_to_the_same_checkpoint_format(course: Course, tmp_path: Path) -> None:
    first = Distiller(course, recipe(rounds=10), tmp_path)
    first.run()
    first.finish(tmp_path / "s.safetensors")
    scorer, info = checkpoints.load(tmp_path / "s.safetensors")
    assert info.method == "distill" and info.model == "tiny" and [row["step"] for row in info.curve] == [10]
    assert all(torch.equal(scorer.state_dict()[name], values) for name, values in first.best[1].items())
    again = Distiller(course, recipe(rounds=10), tmp_path)
    again.resume()
    assert again.round == 10 and again.scorer is not None and first.scorer is not None
    for name, values in again.best[1].items():
        assert torch.equal(values, first.best[1][name])
    again.work.close()
    with pytest.raises(ConfigError, match="made with other settings \\(lr\\)"):
        Distiller(course, recipe(rounds=10, lr=0.5), tmp_path).resume()
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["step"] == 10


def test_a_stopped_distillation_ends_as_one_that_was_not(course: Course, tmp_path: Path) -> None:
    knobs = recipe(rounds=7, golden_rounds=4, save_every=2, validate_every=3, store_labels=True)
    whole = finished(lambda: Distiller(course, knobs, tmp_path / "whole"), [])
    stopped = finished(lambda: Distiller(course, knobs, tmp_path / "stopped"), [0, 1, 0, 0])
    assert without_seconds(stopped.work.log) == without_seconds(whole.work.log)
    assert [row["step"] for row in stopped.work.log] == [3, 6, 7]
    for name, values in whole.scorer.state_dict().items():
        assert torch.equal(values, stopped.scorer.state_dict()[name]), name


def test_the_budgets_of_the_recipe_count_and_not_that_of_the_page() -> None:
    """The page's 128 slots would not hold what is protected here; the recipe's do."""
    options = {"evict_every": 8, "n_recent": 130, "max_new_tokens": 120, "max_prompt_tokens": 120}
    with pytest.raises(ConfigError, match="budget"):
        Course("KVEvict-AIME-v0", options, (), 1, 1)
    assert Course("KVEvict-AIME-v0", options, (), 1, 1, budgets=(140,)).train
    with pytest.raises(ConfigError, match="budget"):
        Course("KVEvict-AIME-v0", options, (), 1, 1, budgets=(140, 64))


@pytest.mark.parametrize(
    "knobs", [{"validate_every": 0}, {"save_every": 0}, {"buffer": 0}, {"buffer": -1}, {"budgets": ()}, {"rounds": 0}]
)
def test_a_recipe_that_does_nothing_is_refused(knobs: dict[str, Any]) -> None:
    (name,) = knobs
    with pytest.raises(ConfigError, match=name):
        DistillRecipe(**knobs)
    assert DistillRecipe(golden_rounds=0, seed=0).golden_rounds == 0
