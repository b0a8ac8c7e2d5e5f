"""Checkpoints: a round trip, and a clear error for each thing that can be wrong."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from kv_agents.learned import checkpoints
from kv_agents.learned.agents import Foresight, Learned
from kv_agents.learned.checkpoints import CheckpointError, CheckpointInfo
from kv_agents.learned.scorer import Scorer, ScorerConfig

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.loading import FrozenLLM, load_llm


def make(folder: Path, shared: bool = False, fingerprint: str = "0" * 64) -> Path:
    torch.manual_seed(0)
    scorer = Scorer(ScorerConfig(("keys",), 4, shared, 2, 2, 8))
    info = CheckpointInfo(
        method="distill", scorer=scorer.config, model="toy", model_fingerprint=fingerprint, env_id="KVEvict-AIME-v0",
        families=("graph",), budgets=(64, 96), evict_every=16, seed=3, command="kv-gym train distill", recipe={"lr": 1},
        curve=[{"step": 1, "recall": 0.5}],
    )  # fmt: skip
    checkpoints.save(scorer, info, folder / "toy.safetensors")
    return folder / "toy.safetensors"


def test_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = make(tmp_path)
    scorer, info = checkpoints.load(path)
    assert info.families == ("graph",) and info.scorer == scorer.config and info.curve[0]["recall"] == 0.5
    torch.manual_seed(0)
    for name, values in Scorer(info.scorer).state_dict().items():
        assert torch.equal(values, scorer.state_dict()[name])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["toy.json", "toy.safetensors"]
    assert checkpoints.describe(info) == "distill on KVEvict-AIME-v0 (graph), model toy, budgets 64, 96, seed 3"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, random_llm: FrozenLLM) -> None:
    llm = random_llm
    with pytest.raises(CheckpointError, match="was trained on model 'toy'.*kv-gym train distill"):
        Foresight(str(make(tmp_path))).prepare(llm)
    Foresight(str(make(tmp_path, fingerprint=llm.fingerprint))).prepare(llm)
    Foresight(str(make(tmp_path, shared=True))).prepare(llm)  # one MLP for all heads fits any model


@pytest.mark.parametrize(("inputs", "refused"), [("relations", True), ("unrotated_keys", True), ("traits", False)])
def test_inputs_that_undo_rope_ask_the_model_first(
    inputs: str, refused: bool, random_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise UnsupportedModelError("interleaved")

    monkeypatch.setattr(random_llm, "check_rotary", refuse)
    config = ScorerConfig((inputs,), 4, True, 2, 2, 3)
    info = checkpoints.read_info(checkpoints.find("transfer")).model_copy(update={"scorer": config})
    with pytest.raises(UnsupportedModelError) if refused else nullcontext():
        info.check_model(random_llm, "mine")


def test_missing_and_damaged_checkpoints_say_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a .safetensors file nor shipped"):
        Foresight("nowhere")
    path = make(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        Foresight(str(path))
    path.write_bytes(whole)
    config = path.with_suffix(".json")
    text = json.loads(config.read_text())
    config.write_text(json.dumps(text | {"colour": "red"}))
    with pytest.raises(CheckpointError, match="colour"):
        Foresight(str(path))
    text["scorer"]["hidden"] = 5
    config.write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        Foresight(str(path))
    config.unlink()
    with pytest.raises(CheckpointError, match="toy.json is missing"):
        Foresight(str(path))


def test_replaced_weights_make_another_agent(tmp_path: Path) -> None:
    from kv_gym.agents import agent_source

    path = make(tmp_path)
    before = agent_source(Foresight(str(path)))
    scorer, info = checkpoints.load(path)
    scorer.b2.add_(1)
    checkpoints.save(scorer, info, path)
    assert agent_source(Foresight(str(path))).where != before.where


@pytest.mark.parametrize("agent", Learned.__subclasses__(), ids=lambda agent: agent.name)
def test_shipped_checkpoints_load_and_say_what_they_were_trained_on(agent: type[Learned]) -> None:
    assert agent().info.model == "tiny"
    assert "KVEvict-" in agent.about()
    agent().prepare(load_llm("tiny"))


def test_shipped_checkpoints_are_small() -> None:
    assert sum(file.stat().st_size for file in checkpoints.SHIPPED.iterdir()) < 3 * 2**20
