"""Advantages and the clipped loss by hand; that tuning climbs a reward, and resumes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kv_agents.learned import checkpoints
from kv_agents.learned.policy import draw_evictions, order_log_prob, pick_log_probs
from kv_agents.training import grpo
from kv_agents.training.course import Course
from kv_agents.training.grpo import GRPORecipe, Tuner, policy_loss
from kv_agents.training.rollouts import group_advantages
from stopping import finished, without_seconds

from kv_gym.errors import ConfigError


def test_episode_credit_by_hand() -> None:
    # two groups of two, two decisions; totals 3, 1 and 2, 2
    rewards = torch.tensor([[1.0, 1.0, 2.0, 0.0], [2.0, 0.0, 0.0, 2.0]])
    advantage, teaches = group_advantages(rewards, torch.ones(2, 4, dtype=torch.bool), 2, "episode", 0.5)
    assert advantage[:, :2].tolist() == [[1.0, -1.0], [1.0, -1.0]]
    assert teaches.tolist() == [[True, True, False, False]] * 2  # the second group's totals do not differ


def test_decision_credit_counts_what_comes_after() -> None:
    rewards = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    advantage, teaches = group_advantages(rewards, torch.ones(2, 2, dtype=torch.bool), 2, "decision", 0.5)
    # returns to go: first decision 2 and 1, second 2 and 0; largest standard deviation of a group: 1
    assert advantage.tolist() == [[0.5, -0.5], [1.0, -1.0]]
    assert teaches.all()


def test_decisions_that_were_not_made_teach_nothing() -> None:
    rewards = torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    running = torch.tensor([[True, True], [False, True]])  # row 0 had ended before its 5.0
    advantage, teaches = group_advantages(rewards, running, 2, "episode", 1.0)
    assert teaches.tolist() == running.tolist()
    assert advantage[0].tolist() == [-1.0, 1.0]


def test_policy_loss_by_hand() -> None:
    old, start = torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    new = torch.tensor([1.5, 0.5]).log().reshape(2, 1, 1, 1)
    gain = torch.tensor([1.0, -1.0])
    # min(1.5, 1.2) = 1.2 and min(-0.5, -0.8) = -0.8; d = -log ratio: 1/r - 1 + log r
    expected = -(1.2 - 0.8) / 2
    divergence = ((1 / 1.5 - 1 + math.log(1.5)) + (1 / 0.5 - 1 + math.log(0.5))) / 2
    assert abs(float(policy_loss(new, old, start, gain, 0.2, 0.0)) - expected) < 1e-6
    assert abs(float(policy_loss(new, old, start, gain, 0.2, 0.3)) - expected - 0.3 * divergence) < 1e-6


def test_clipped_draws_give_no_gradient() -> None:
    new = torch.tensor([0.5, 0.05]).reshape(2, 1, 1, 1).requires_grad_()
    policy_loss(new, torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.ones(2), 0.2, 0.0).backward()
    assert new.grad is not None and new.grad[0] == 0 and new.grad[1] != 0


SMALL = {
    "budgets": (20,),
    "problems": 2,
    "group": 4,
    "iterations": 4,
    "minibatches": 2,
    "n_train": 8,
    "n_validation": 3,
}
OPTIONS = {"evict_every": 4, "max_new_tokens": 120, "max_prompt_tokens": 120}


@pytest.fixture(scope="module")
def course() -> Course:
    from dataclasses import replace

    made = Course("KVEvict-AIME-v0", OPTIONS, (), 8, 3)
    made.train = [replace(reference, correct=True) for reference in made.train]
    made.validation = [replace(reference, correct=True) for reference in made.validation]
    return made


@pytest.fixture(scope="module")
def start(course: Course, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distilled scorer, hardly trained."""
    from kv_agents.training.distill import Distiller, DistillRecipe

    folder = tmp_path_factory.mktemp("start")
    knobs = DistillRecipe(rounds=1, golden_rounds=1, budgets=(20,), width=4, rows=4, n_train=8, n_validation=3)
    trainer = Distiller(course, knobs, folder)
    trainer.run()
    trainer.finish(folder / "start.safetensors")
    return folder / "start.safetensors"


@pytest.mark.parametrize("mode", ["replay", "generate"])
def test_tuning_runs_resumes_and_saves(mode: str, course: Course, start: Path, tmp_path: Path) -> None:
    recipe = GRPORecipe(start=str(start), mode=mode, **SMALL)  # type: ignore[arg-type]
    tuner = Tuner(course, recipe, tmp_path)
    tuner.run()
    tuner.finish(tmp_path / "rl.safetensors")
    _, info = checkpoints.load(tmp_path / "rl.safetensors")
    assert info.method == "grpo" and info.start == str(start)
    assert [row["step"] for row in info.curve] == [0, 4]
    other = {"replay": "generate_correct", "generate": "replay_loss"}[mode]
    assert all(
        row[other] >= 0 and {"replay": "replay_loss", "generate": "generate_correct"}[mode] not in row
        for row in info.curve
    )
    again = Tuner(course, recipe, tmp_path)
    again.resume()
    assert again.iteration == 4
    for name, values in again.scorer.state_dict().items():
        assert torch.equal(values, tuner.scorer.state_dict()[name])


def test_stored_draws_have_the_probability_they_were_drawn_with(course: Course, start: Path, tmp_path: Path) -> None:
    tuner = Tuner(course, GRPORecipe(start=str(start), **SMALL), tmp_path)  # type: ignore[arg-type]
    rollouts, _ = tuner._roll(0)
    assert len(rollouts.advantage) > 0
    torch.testing.assert_close(tuner._log_prob(tuner.scorer, rollouts.inputs), rollouts.log_prob, atol=1e-3, rtol=0)


def test_learning_makes_good_draws_likelier(course: Course, start: Path, tmp_path: Path) -> None:
    tuner = Tuner(course, GRPORecipe(start=str(start), **SMALL), tmp_path)  # type: ignore[arg-type]
    rollouts, _ = tuner._roll(0)
    gain = torch.where(torch.arange(len(rollouts.advantage)) % 2 == 0, 1.0, -1.0)
    before = tuner._log_prob(tuner.scorer, rollouts.inputs)
    for step in range(5):
        tuner._learn(replace(rollouts, advantage=gain), torch.Generator().manual_seed(step))
    change = (tuner._log_prob(tuner.scorer, rollouts.inputs) - before).mean((1, 2, 3))
    assert change[gain > 0].mean() > change[gain < 0].mean() + 0.01


def test_a_policy_that_ran_away_is_stopped(course: Course, start: Path, tmp_path: Path) -> None:
    tuner = Tuner(course, GRPORecipe(start=str(start), **SMALL), tmp_path)  # type: ignore[arg-type]
    rollouts, _ = tuner._roll(0)
    far = replace(rollouts, log_prob=torch.full_like(rollouts.log_prob, torch.nan))
    with pytest.raises(ConfigError, match="lower lr than"):
        tuner._learn(far, torch.Generator().manual_seed(0))
    assert all(parameter.isfinite().all() for parameter in tuner.scorer.parameters())


def test_order_log_prob_is_used_with_the_number_of_evictions(course: Course, start: Path, tmp_path: Path) -> None:
    tuner = Tuner(course, GRPORecipe(start=str(start), **SMALL), tmp_path)  # type: ignore[arg-type]
    inputs = torch.randn(1, 4, 2, 8, tuner.scorer.config.n_inputs)
    tuner.scale = 1.0
    logits = -tuner.scorer(inputs) / tuner.recipe.temperature
    torch.testing.assert_close(tuner._log_prob(tuner.scorer, inputs).sum(-1), order_log_prob(logits, 4))
    whole = Tuner(course, GRPORecipe(start=str(start), ratio="order", **SMALL), tmp_path / "o")  # type: ignore[arg-type]
    whole.scale = 1.0
    torch.testing.assert_close(whole._log_prob(tuner.scorer, inputs)[..., 0], order_log_prob(logits, 4))


def test_a_log_ratio_out_of_all_range_is_clamped() -> None:
    new = torch.tensor([5000.0, -5000.0]).reshape(2, 1, 1, 1)
    loss = policy_loss(new, torch.zeros_like(new), torch.zeros_like(new), torch.tensor([-1.0, 1.0]), 0.2, 0.005)
    gap = (math.exp(10) - 11 + math.exp(-10) + 9) / 2  # of +10 and -10 nats
    assert abs(float(loss) - (math.exp(10) - math.exp(-10)) / 2 - 0.005 * gap) < 1e-2


def test_as_many_picks_are_clipped_at_any_eviction_length() -> None:
    """Scores move by 5% of their spread; of whole orders, nearly all would be clipped at 128."""
    generator = torch.Generator().manual_seed(0)
    picks, orders = [], []
    for k in (16, 32, 64, 128):
        scores = torch.randn(400, 160 + k, generator=generator) / GRPORecipe.temperature
        moved = scores + 0.05 * torch.randn(scores.shape, generator=generator) / GRPORecipe.temperature
        free = torch.zeros_like(scores, dtype=torch.bool)
        draw = draw_evictions(scores, free, k, torch.rand(scores.shape, generator=generator), 2 * k)
        gap = pick_log_probs(-moved.gather(-1, draw.slots), k) - draw.log_probs
        picks.append(float(((gap.exp() - 1).abs() > GRPORecipe.clip).float().mean()))
        orders.append(float(((gap.sum(-1).exp() - 1).abs() > GRPORecipe.clip).float().mean()))
    assert max(picks) < 1.5 * min(picks), picks
    assert orders[-1] > 0.9 and picks[-1] < 0.7, (picks, orders)


@pytest.mark.parametrize("stops", [[0, 1, 0], [0, 0, 0]], ids=["later", "before the first state"])
def test_a_stopped_tuning_ends_as_one_that_was_not(
    stops: list[int], course: Course, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "SAVE_EVERY", 2)
    monkeypatch.setattr(grpo, "VALIDATE_EVERY", 3)
    recipe = GRPORecipe(start=str(start), **SMALL | {"iterations": 5})  # type: ignore[arg-type]
    whole = finished(lambda: Tuner(course, recipe, tmp_path / "whole"), [])
    stopped = finished(lambda: Tuner(course, recipe, tmp_path / "stopped"), stops)
    assert without_seconds(stopped.work.log) == without_seconds(whole.work.log)
    assert [row["step"] for row in stopped.work.log] == [0, 3, 5]
    assert (tmp_path / "stopped" / "log.jsonl").read_text().count("\n") == 3
    for name, values in whole.scorer.state_dict().items():
        assert torch.equal(values, stopped.scorer.state_dict()[name]), name
