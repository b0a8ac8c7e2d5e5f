"""Checkpoints: a round trip, and a clear error for each thing that can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kv_agents.learned import checkpoints, inputs
from kv_agents.learned.agents import Foresight, Learned, PPOAgent
from kv_agents.learned.checkpoints import CheckpointError, CheckpointInfo
from kv_agents.learned.scorer import Scorer, ScorerConfig

from kv_gym.config import make_config
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.features import FEATURES, Feature
from kv_gym.engine.reference import ReferenceStore
from kv_gym.engine.slots import SlotView
from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source


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


@pytest.mark.parametrize(("name", "refused"), [("relations", True), ("unrotated_keys", True), ("traits", False)])
def test_inputs_that_undo_rope_ask_the_model_first(
    name: str, refused: bool, random_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise UnsupportedModelError("interleaved")

    monkeypatch.setattr(random_llm, "check_rotary", refuse)
    config = ScorerConfig((name,), 4, True, 2, 2, inputs.width(inputs.all_of((name,)), random_llm.shape))
    info = checkpoints.read_info(checkpoints.find("transfer")).model_copy(update={"scorer": config})
    with pytest.raises(UnsupportedModelError) if refused else nullcontext():
        info.check_model(random_llm, "mine")


def test_missing_and_damaged_checkpoints_say_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a .safetensors file nor shipped"):
        Foresight("nowhere")
    path = make(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
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


def test_weights_and_description_of_two_trainings_do_not_go_together(tmp_path: Path) -> None:
    """As a kill between the two writes leaves them."""
    path = make(tmp_path)
    scorer, info = checkpoints.load(path)
    whole = path.read_bytes()
    scorer.b2.add_(1)
    checkpoints.save(scorer, info, path)
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="one of the two is of another training"):
        checkpoints.load(path)
    description = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description | {"weights_sha256": ""}))  # an older checkpoint
    checkpoints.load(path)


def test_replaced_weights_make_another_agent(tmp_path: Path) -> None:
    from kv_gym.identity import identity_of

    path = make(tmp_path)
    before = identity_of(Foresight(str(path)))
    scorer, info = checkpoints.load(path)
    scorer.b2.add_(1)
    checkpoints.save(scorer, info, path)
    assert identity_of(Foresight(str(path))).where != before.where


@pytest.mark.parametrize("agent", Learned.__subclasses__(), ids=lambda agent: agent.name)
def test_shipped_checkpoints_load_and_say_what_they_were_trained_on(agent: type[Learned]) -> None:
    assert agent().info.model == "tiny" and agent().info.weights_sha256
    assert "KVEvict-" in agent.about()
    agent().prepare(load_llm("tiny"))


def test_shipped_checkpoints_are_small() -> None:
    assert sum(file.stat().st_size for file in checkpoints.SHIPPED.iterdir()) < 3 * 2**20


def ppo_scores(view: SlotView) -> torch.Tensor:
    scorer, _ = checkpoints.load(checkpoints.find("ppo"))
    return scorer.score(view)


@pytest.fixture
def view(random_llm: FrozenLLM) -> SlotView:
    config = make_config("KVEvict-AIME-v0", budget=24, evict_every=8, max_new_tokens=60)
    problem = problem_source("aime").problem("validation", 0, 0)
    batch = EpisodeBatch(random_llm, config, 1)
    batch.reset([0], ReferenceStore(random_llm, config).get([problem]), [0])
    return batch.slots()


def columns_of(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Feature]], list[Feature]]) -> None:
    """Let the observation have other features than it has."""
    monkeypatch.setitem(inputs.INPUTS, "features", inputs.of_features(change(list(FEATURES))))


def test_columns_are_chosen_by_name(view: SlotView, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ppo_scores(view)
    columns_of(monkeypatch, lambda features: features[::-1])  # surprisal and entropy change places, like all others
    assert torch.equal(ppo_scores(view), before)
    new = replace(FEATURES[0], name="new", compute=lambda slots: slots.attention()[..., 0, :], grouped=True)
    columns_of(monkeypatch, lambda features: [new, *features, replace(FEATURES[8], name="newer")])
    assert torch.equal(ppo_scores(view), before)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda features: [f for f in features if f.name != "surprisal"], r"'surprisal@1' of input 'features'\."),
        (
            lambda features: [replace(f, version=2) if f.name == "key_norm" else f for f in features],
            r"'key_norm@1' of input 'features' \(there is 'key_norm@2'\)\.",
        ),
    ],
    ids=["gone", "another meaning"],
)
def test_a_column_that_is_not_computed_is_named(
    change: Callable[[list[Feature]], list[Feature]], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns_of(monkeypatch, change)
    with pytest.raises(CheckpointError, match=f"'ppo' was trained on columns that are not computed: {complaint} Train"):
        checkpoints.load(checkpoints.find("ppo"))


def test_columns_of_several_numbers_stay_together() -> None:
    values = torch.arange(12.0)[None]  # three columns of four query heads each
    assert inputs.chosen(values, ("a", "b", "c"), ("c", "a")).tolist() == [[8, 9, 10, 11, 0, 1, 2, 3]]
    assert inputs.chosen(values, ("a", "b", "c"), ("a", "b", "c")) is values


def test_every_input_has_the_columns_it_says(view: SlotView) -> None:
    for name, found in inputs.INPUTS.items():
        values = found.read(view, found.columns)
        assert values.shape[-1] % len(found.columns) == 0, name
        for i, column in enumerate(found.columns):
            width = values.shape[-1] // len(found.columns)
            assert torch.equal(found.read(view, (column,)), values[..., i * width : (i + 1) * width]), (name, column)


def test_checkpoints_of_the_first_format_are_read_by_what_columns_were_then(tmp_path: Path) -> None:
    path = make(tmp_path)
    text = json.loads(path.with_suffix(".json").read_text())
    assert text["format"] == 2 and text["scorer"].pop("columns") == {"keys": ["key@1"]}
    path.with_suffix(".json").write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match="does not name the columns of every input"):
        checkpoints.load(path)
    for columns, complaint in (
        (None, "does not name"), ({}, "does not name"), (3, "valid"), ({"values": ["value@1"]}, "name each once"),
        ({"keys": []}, "at least one"), ({"keys": ["key@1", "key@1"]}, "each once"), ({"keys": [["key@1"]]}, "string"),
    ):  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(text | {"scorer": text["scorer"] | {"columns": columns}}))
        with pytest.raises(CheckpointError, match=complaint):
            checkpoints.load(path)
    path.with_suffix(".json").write_text(json.dumps(text | {"format": 1}))
    assert checkpoints.load(path)[1].scorer.columns == {"keys": ("key@1",)}


def test_columns_that_do_not_come_to_what_the_weights_take_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ppo.safetensors"
    for file in (checkpoints.find("ppo"), checkpoints.find("ppo").with_suffix(".json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = json.loads(path.with_suffix(".json").read_text())
    text["scorer"]["columns"]["features"].pop()
    path.with_suffix(".json").write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match="weights for 26 numbers a slot, but .* come to 25 on model 'tiny'"):
        PPOAgent(str(path)).prepare(load_llm("tiny"))


@pytest.mark.parametrize("name", inputs.INPUTS)
def test_columns_of_the_first_format_are_still_there(name: str) -> None:
    gone = set(checkpoints.FIRST_COLUMNS.get(name, ())) - set(inputs.INPUTS[name].columns)
    assert not gone, (
        f"{sorted(gone)} of input {name!r} are read by published checkpoints, which cannot be loaded any more. Keep "
        "the column, and give what replaces it a name or version of its own beside it."
    )


def test_both_files_get_the_permissions_of_the_umask(tmp_path: Path) -> None:
    scorer, info = checkpoints.load(checkpoints.find("transfer"))
    path = tmp_path / "saved.safetensors"
    checkpoints.save(scorer, info, path)
    (tmp_path / "plain").touch()
    modes = {file.stat().st_mode for file in tmp_path.iterdir()}
    assert len(modes) == 1 and len(list(tmp_path.iterdir())) == 3
    again, _ = checkpoints.load(path)
    assert all(
        torch.equal(a, b) for a, b in zip(scorer.state_dict().values(), again.state_dict().values(), strict=True)
    )
