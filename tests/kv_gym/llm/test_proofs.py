"""A model is checked when it is first loaded, what was found is kept, and what does not hold is not played."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import SIZES, plain_model, shrink_positions
from transformers import LlamaConfig, RobertaConfig

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm import proofs
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import forget_llm, load_llm
from kv_gym.llm.proofs import UnprovenModelError, proof_path, proven
from kv_gym.llm.tiny.tokenizer import build_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were checked."""
    checked: list[str] = []
    check = proofs.check_truths

    def count(llm: FrozenLLM, length: int) -> list[proofs.Truth]:
        checked.append(llm.name)
        return check(llm, length)

    monkeypatch.setattr(proofs, "check_truths", count)
    return checked


def random_llama() -> FrozenLLM:
    return FrozenLLM(plain_model(LlamaConfig(**SIZES)), build_tokenizer(), "llama")


def test_a_model_is_checked_once(checks: list[str]) -> None:
    llm = random_llama()
    assert proven(llm) is llm and proven(random_llama()).fingerprint == llm.fingerprint
    assert checks == ["llama"]
    stored = json.loads(proof_path(llm.fingerprint).read_text())
    assert len(stored["truths"]) == 5 and all(truth["gap"] < 1e-6 for truth in stored["truths"])


@pytest.mark.parametrize("damage", ["other torch", "torn", "no JSON", "a folder"])
def test_what_cannot_be_used_is_found_again(damage: str, checks: list[str]) -> None:
    path = proof_path(proven(random_llama()).fingerprint)
    if damage == "other torch":
        path.write_text(path.read_text().replace(torch.__version__, "0.1"))
    elif damage == "torn":
        path.write_text(path.read_text()[:-20])
    elif damage == "no JSON":
        path.write_bytes(b"\xff\x00")
    else:
        path.unlink()
        path.mkdir()
    proven(random_llama())
    assert checks == ["llama", "llama"]


def test_a_cache_that_cannot_be_written_costs_only_time(checks: list[str], cache: Path) -> None:
    cache.mkdir()
    (cache / "proofs").write_text("in the way")
    proven(random_llama()), proven(random_llama())
    assert checks == ["llama", "llama"]


def test_embedded_models_are_known(checks: list[str]) -> None:
    proven(load_llm("tiny"))
    assert checks == []
    forget_llm()
    load_llm("tiny", dtype="bfloat16")
    assert checks == ["tiny"], "in another type it is another model"
    forget_llm()


def test_a_model_on_which_a_truth_does_not_hold_is_not_loaded(checks: list[str], tmp_path: Path) -> None:
    sizes = {name: value for name, value in SIZES.items() if name not in ("head_dim", "num_key_value_heads")}
    config = RobertaConfig(**sizes, is_decoder=True)  # its positions start behind its padding token
    plain_model(config).save_pretrained(tmp_path / "roberta")
    build_tokenizer().save_pretrained(tmp_path / "roberta")
    for _ in range(2):  # what was found is kept, and refused again
        with pytest.raises(UnsupportedModelError, match=r"does not hold that no eviction is.*Use another model"):
            load_llm(str(tmp_path / "roberta"))
    assert checks == [str(tmp_path / "roberta")]


def test_what_is_found_wrong_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = random_llama()
    shrink_positions(llm, monkeypatch)
    with pytest.raises(UnprovenModelError) as caught:
        proven(llm)
    held = {truth.claim: truth.held for truth in caught.value.truths}
    assert held["no eviction is the plain model"] and not held["slots that stay keep their keys"]


def test_whatever_a_model_raises_is_a_refusal_with_its_cause() -> None:
    model = plain_model(LlamaConfig(**SIZES))
    model.model.forward = lambda *args, **kwargs: 1 // 0
    with pytest.raises(UnsupportedModelError, match="cannot be used .ZeroDivisionError while") as caught:
        FrozenLLM(model, build_tokenizer(), "llama")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_lack_of_memory_is_not_the_model() -> None:
    model = plain_model(LlamaConfig(**SIZES))

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.forward = full
    with pytest.raises(torch.OutOfMemoryError):
        FrozenLLM(model, build_tokenizer(), "llama")
