"""`kv-gym train`: knobs, weights of the reward, and what is told before anything is made."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from kv_agents.training.distill import DistillRecipe
from kv_agents.training.grpo import GRPORecipe
from plugin import pretend

from kv_gym.commands import main as cli
from kv_gym.commands.train import GROUP, build_recipe, knobs
from kv_gym.errors import ConfigError, UnknownNameError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", *arguments])
    found = capsys.readouterr()
    return int(end.value.code or 0), " ".join((found.out + found.err).split())


def test_a_weight_that_is_named_leaves_the_others() -> None:
    assert build_recipe(GRPORecipe, None).weights == {"w_loss": 0.02}
    assert build_recipe(GRPORecipe, ["w_attention=0.1"]).weights == {"w_loss": 0.02, "w_attention": 0.1}
    assert build_recipe(GRPORecipe, ["w_loss=0", "lr=1.0e-3"]).weights == {"w_loss": 0.0}
    assert build_recipe(GRPORecipe, ["weights={w_attention: 0.1}"]).weights == {"w_attention": 0.1}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["w_loss=abc"], "--set w_loss='abc' is not allowed: a weight is a number"),
        (["w_loss=true"], "--set w_loss=True"),
        (["w_los=1"], r"knob 'w_los' of GRPORecipe. Did you mean 'w_loss'\?"),
        (["w_loss=1", "weights={}"], "in one way or the other"),
        (["weights=3"], "--set weights=3 is not allowed"),
        (["weights=null"], "--set weights=None is not allowed"),
        (["budgets=96"], "--set budgets=96 is not allowed"),
        (["iterations=many"], "iterations='many'"),
    ],
)
def test_a_wrong_knob_is_named(pairs: list[str], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        build_recipe(GRPORecipe, pairs)
    with pytest.raises(UnknownNameError, match="knob 'w_loss' of DistillRecipe"):
        build_recipe(DistillRecipe, ["w_loss=1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "w_loss=-1"], "w_loss=-1.0 is not allowed: Input should be greater than or equal to 0"),
        (["--set", "weights={w_nope: 1}"], "unknown weight 'w_nope' of the reward"),
        (["--env-set", "w_attention=0.1"], "--env-set w_attention: the training weighs its reward itself. Use --set"),
        (["--env-set", "bugdet=1"], "unknown option 'bugdet'. Did you mean 'budget'"),
    ],
)
def test_mistakes_show_before_references_are_made(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_agents.training.trainings.Course", lambda *arguments: pytest.fail("too late"))
    code, text = run(capsys, "grpo", *options)
    assert code == 2 and message in text


def test_help_lists_every_knob() -> None:
    told = knobs(GRPORecipe)
    assert all(f"{name}=" in told for name in vars(GRPORecipe())) and "Checkpoint to begin from" in told


def test_a_broken_training_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = EntryPoint("distill", "kv_agents.training.trainings:distill", GROUP)
    pretend(monkeypatch, GROUP, [good, EntryPoint("theirs", "no_such_package:x", GROUP)])
    code, text = run(capsys, "--help")
    assert code == 0 and "Distil Golden Eviction" in text and "(broken) no_such_package:x cannot be loaded" in text
    code, text = run(capsys, "theirs")
    assert code == 2 and "training 'theirs': no_such_package:x cannot be loaded: ModuleNotFoundError" in text
