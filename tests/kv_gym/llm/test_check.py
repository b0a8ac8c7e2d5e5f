"""`kv-gym models check`: right models pass, and every kind of wrong cache is seen."""

from __future__ import annotations

import copy

import pytest
import torch
from families import shrink_positions
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm import check
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.llm.tiny.tokenizer import build_tokenizer


def test_every_family_holds_the_truths(models: tuple[object, FrozenLLM]) -> None:
    _, llm = models
    assert [truth.held for truth in check.check_truths(llm)] == [True] * 5
    assert check.missing_parts(llm) == []


@pytest.fixture
def llm(random_llama) -> FrozenLLM:
    model, tokenizer = random_llama
    return FrozenLLM(copy.deepcopy(model), tokenizer, "random-llama")


def held(llm: FrozenLLM) -> list[bool]:
    return [truth.held for truth in check.check_truths(llm)]


def test_positions_of_the_shrunken_cache_are_seen(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_positions(llm, monkeypatch)
    assert held(llm) == [True, False, False, True, True]


def test_evicting_other_slots_is_seen(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    evict = SlotCache.evict
    monkeypatch.setattr(SlotCache, "evict", lambda cache, keep: evict(cache, keep.roll(1, 2)))  # of the next head
    assert held(llm) == [True, False, False, True, True]


def test_a_chunk_that_sees_its_future_is_seen(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlotCache, "visible", lambda cache, length, group: None)
    assert held(llm)[0] is False and held(llm)[3] is False


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=DTYPES, ids=str)
def trained(request: pytest.FixtureRequest) -> FrozenLLM:
    """The embedded model in each type."""
    whole = load_llm("tiny")
    return FrozenLLM(copy.deepcopy(whole.model).to(request.param), whole.tokenizer, "tiny")


def test_truths_hold_in_every_type(trained: FrozenLLM) -> None:
    assert held(trained) == [True] * 5
    assert all(truth.gap < truth.allowed / 3 for truth in check.check_truths(trained, long=200)), "with room to spare"


def test_wrong_positions_are_seen_in_every_type(trained: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_positions(trained, monkeypatch)
    assert [truth.gap > 5 * truth.allowed for truth in check.check_truths(trained)][:4] == [False, True, True, False]


def test_evicting_other_slots_is_seen_in_every_type(trained: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    evict = SlotCache.evict
    monkeypatch.setattr(SlotCache, "evict", lambda cache, keep: evict(cache, keep.roll(1, 2)))
    assert held(trained)[1:3] == [False, False]


def test_a_chunk_that_sees_its_future_is_seen_in_every_type(
    trained: FrozenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlotCache, "visible", lambda cache, length, group: None)
    assert held(trained)[0] is held(trained)[3] is False


@pytest.mark.parametrize(("width", "layers"), [(256, 8), (1024, 2)])
def test_large_weights_are_no_mistake_and_wrong_positions_are(
    width: int, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=2, initializer_range=0.4, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    llm = FrozenLLM(LlamaForCausalLM(config).eval(), tokenizer, "wide")
    found = check.check_truths(llm)
    assert all(truth.gap < truth.allowed / 3 for truth in found) and max(truth.gap for truth in found) > 2e-5
    shrink_positions(llm, monkeypatch)
    assert [truth.gap > 1000 * truth.allowed for truth in check.check_truths(llm)] == [False, True, True, False, False]


NOTHING = [(0.0, "", "all zero: its weights are empty"), (1e30, "", "all zero"), (1e38, "lm_head", "NaN or infinite")]


@pytest.mark.parametrize(("factor", "where", "message"), NOTHING)
def test_a_model_that_says_nothing_is_refused(llm: FrozenLLM, factor: float, where: str, message: str) -> None:
    with torch.no_grad():
        for name, weight in llm.model.named_parameters():
            weight.mul_(factor if where in name else 1.0)
    with pytest.raises(UnsupportedModelError, match=f"random-llama gives logits that are {message}"):
        check.check_truths(llm)


def test_keys_that_are_all_zero_are_compared(llm: FrozenLLM) -> None:
    with torch.no_grad():
        for name, weight in llm.model.named_parameters():
            if "k_proj" in name:
                weight.zero_()
    assert held(llm) == [True] * 5


def test_what_a_model_lacks_is_named() -> None:
    config = GPTNeoXConfig(
        vocab_size=63, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, rotary_pct=1.0
    )
    torch.manual_seed(0)
    llm = FrozenLLM(GPTNeoXForCausalLM(config), build_tokenizer(), "neox")
    assert held(llm) == [True] * 5
    (missing,) = check.missing_parts(llm)
    assert "output projection" in missing and "GPTNeoXForCausalLM has no self_attn.o_proj" in missing
