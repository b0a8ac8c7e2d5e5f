"""A fingerprint names everything of a model that can move a token, and nothing else."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kv_gym.llm import fingerprint as fingerprints
from kv_gym.llm.fingerprint import fingerprint, same_model, stable_config
from kv_gym.llm.known import known_models
from kv_gym.llm.loading import EMBEDDED, forget_llm, load_llm


def edited(file: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_stop(folder: Path) -> None:
    for file in ("config.json", "generation_config.json"):
        edited(file, eos_token_id=5)(folder)


def chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


CHANGES: dict[str, Callable[[Path], None]] = {
    "a weight": one_weight,
    "rms_norm_eps": edited("config.json", rms_norm_eps=0.5),
    "hidden_act": edited("config.json", hidden_act="relu"),
    "rope_theta": edited("config.json", rope_parameters={"rope_type": "default", "rope_theta": 5000.0}),
    "max_position_embeddings": edited("config.json", max_position_embeddings=4096),
    "eos_token_id": other_stop,
    "stop ids of generation": edited("generation_config.json", eos_token_id=[2, 5]),
    "a lower-casing tokenizer": edited("tokenizer.json", normalizer={"type": "Lowercase"}),
    "a decoder that strips": edited("tokenizer.json", decoder={"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    "a chat template": chat_template,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EMBEDDED["tiny"], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("change", CHANGES)
def test_what_moves_a_token_moves_the_fingerprint(change: str, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    CHANGES[change](folder)
    assert before != {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert load_llm(str(folder)).fingerprint != load_llm("tiny").fingerprint


def test_a_copy_is_the_same_model_wherever_it_lies(folder: Path) -> None:
    edited("config.json", transformers_version="9.9", _name_or_path="x", use_cache=False)(folder)
    assert load_llm(str(folder)).fingerprint == load_llm("tiny").fingerprint


def test_the_dtype_is_part_of_it() -> None:
    assert load_llm("tiny", dtype="bfloat16").fingerprint != load_llm("tiny").fingerprint


def test_padding_a_text_changes_nothing() -> None:
    llm = load_llm("tiny")
    llm.tokenizer(["a", "abc"], padding=True)
    assert fingerprint(llm.model, llm.tokenizer, llm.stop_ids) == llm.fingerprint


def test_configs_are_cleaned_at_every_depth() -> None:
    config = {"a": 1, "text_config": {"b": None, "torch_dtype": torch.float32, "_x": 1, "c": {"use_cache": True}}}
    assert stable_config(config) == {"a": 1, "text_config": {"c": {}}}


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_have_the_fingerprints_that_results_name(name: str) -> None:
    [known] = [model for model in known_models().models if model.id == name]
    now = load_llm(name).fingerprint
    assert now == known.fingerprint, (
        f"{name} has another fingerprint than its results ({now}). If weights, config or tokenizer changed, that is "
        "another model: give it another name. If the fingerprint is made otherwise, add the old one to "
        "former_fingerprints in kv_gym/llm/known.yaml and migrate stored rows."
    )
    assert known.former_fingerprints and all(same_model(former, now) for former in known.former_fingerprints)
    assert not same_model(now, "0" * 64) and same_model("0" * 64, "0" * 64)


# --- Kept fingerprints of large models ---------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every model is a large one; here is what was hashed."""
    found: list[str] = []
    whole = fingerprints._hash

    def spied(*args: Any) -> str:
        found.append(whole(*args))
        return found[-1]

    monkeypatch.setattr(fingerprints, "LARGE", 0)
    monkeypatch.setattr(fingerprints, "_hash", spied)
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path / "cache"))
    return found


def loaded(folder: Path, **options: Any) -> str:
    forget_llm()
    return load_llm(str(folder), **options).fingerprint


def test_files_that_nobody_touched_are_hashed_once(folder: Path, hashed: list[str]) -> None:
    assert loaded(folder) == loaded(folder) == load_llm("tiny").fingerprint
    assert len(hashed) == 2, "the folder's and the embedded one's"
    assert loaded(folder, dtype="bfloat16") != hashed[0] and len(hashed) == 3


@pytest.mark.parametrize("change", CHANGES)
def test_what_moves_a_token_is_not_served_from_the_cache(change: str, folder: Path, hashed: list[str]) -> None:
    before = loaded(folder)
    CHANGES[change](folder)
    assert loaded(folder) != before and len(hashed) == 2


def test_weights_that_were_exchanged_under_their_old_date_are_seen(folder: Path, hashed: list[str]) -> None:
    before, file = loaded(folder), folder / "model.safetensors"
    stat = file.stat()
    one_weight(folder)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert loaded(folder) != before


def test_a_change_in_memory_is_not_served_from_the_cache(folder: Path, hashed: list[str]) -> None:
    before, llm = loaded(folder), load_llm(str(folder))
    with torch.no_grad():
        llm.model.get_output_embeddings().weight[0, 0] += 1
    assert fingerprint(llm.model, llm.tokenizer, llm.stop_ids) != before
    assert loaded(folder) == before and load_llm(str(folder)) is not llm


def test_a_cache_that_is_damaged_or_closed_costs_time_and_nothing_else(
    folder: Path, hashed: list[str], tmp_path: Path
) -> None:
    before = loaded(folder)
    [kept] = (tmp_path / "cache" / "fingerprints").iterdir()
    for damage in (b"", b"0" * 63, b"\xff" * 64, before.upper().encode()):
        kept.write_bytes(damage)
        assert loaded(folder) == before
    assert len(hashed) == 5 and kept.read_text() == before
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "fingerprints").write_text("in the way")
    assert loaded(folder) == before


def test_small_models_leave_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path / "cache"))
    loaded(folder)
    assert not (tmp_path / "cache").exists()


def test_parameters_without_dimensions_are_a_part_of_it() -> None:
    model, tokenizer = copy.deepcopy(load_llm("tiny").model), load_llm("tiny").tokenizer
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    before = fingerprint(model, tokenizer, (2,))
    with torch.no_grad():
        model.scale += 1
    assert fingerprint(model, tokenizer, (2,)) != before
