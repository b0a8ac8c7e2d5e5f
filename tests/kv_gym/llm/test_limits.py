"""How long a text may be: windows, RoPE that switches, positions in a table; and who says so when it is too long."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import SIZES, plain_model
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    HunYuanDenseV1Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhimoeConfig,
    Qwen3Config,
)

from kv_gym.config import make_config
from kv_gym.engine.capacity import check_capacity, text_capacity
from kv_gym.engine.decoding import Decoding
from kv_gym.engine.reference import ReferenceStore, generate_references
from kv_gym.errors import ConfigError, UnsupportedModelError
from kv_gym.llm.cache import FullCache
from kv_gym.llm.check import check_truths
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.limits import text_limit
from kv_gym.llm.tiny.tokenizer import build_tokenizer
from kv_gym.problems import Problem

NO_WIDTH = {name: value for name, value in SIZES.items() if name != "head_dim"}
ORIGINAL = 64
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 9.0, 20.0]}
LONGROPE: dict[str, Any] = {"rope_type": "longrope", "original_max_position_embeddings": ORIGINAL, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
SWITCHING = {
    "phi3 longrope": Phi3Config(**NO_WIDTH, rope_parameters=LONGROPE, original_max_position_embeddings=ORIGINAL),
    "phimoe longrope": PhimoeConfig(
        **NO_WIDTH, num_local_experts=2, rope_parameters=LONGROPE | {"short_mscale": 1.1, "long_mscale": 1.4}
    ),
    "llama dynamic": LlamaConfig(**{**SIZES, "max_position_embeddings": ORIGINAL}, rope_parameters=DYNAMIC),
}


def frozen(config: Any) -> FrozenLLM:
    return FrozenLLM(plain_model(config), build_tokenizer(), "model")


def texts(n: int, length: int) -> torch.Tensor:
    return torch.randint(3, 63, (n, length), generator=torch.Generator().manual_seed(1))


def read(llm: FrozenLLM, tokens: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of texts whose rows start at positions `first`."""
    positions = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    if first is not None:
        positions = positions + first[:, None]
    return llm.read(tokens, positions, FullCache(llm.shape, len(tokens), int(positions.max()) + 1))


@pytest.mark.parametrize("name", SWITCHING)
def test_rope_that_switches_is_exact_up_to_its_length_and_ends_there(name: str) -> None:
    llm, tokens = frozen(SWITCHING[name]), texts(2, ORIGINAL + 8)
    assert llm.limit is not None and llm.limit.tokens == ORIGINAL
    assert "RoPE has" in llm.limit.why
    plain = plain_model(SWITCHING[name])
    within = tokens[:, :ORIGINAL]
    torch.testing.assert_close(read(llm, within), plain(within).logits, atol=1e-5, rtol=0)
    gap = (read(llm, tokens) - plain(tokens).logits)[:, :ORIGINAL].abs().max()
    assert gap > 1e-4, "past its length the plain model turns all keys otherwise: that is why it ends"


@pytest.mark.parametrize("name", SWITCHING)
def test_a_longer_row_does_not_change_the_others(name: str) -> None:
    llm, tokens = frozen(SWITCHING[name]), texts(2, 32)
    alone = read(llm, tokens[:1])
    beside = read(llm, tokens, first=torch.tensor([0, 4 * ORIGINAL]))
    torch.testing.assert_close(beside[:1], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(read(llm, tokens[:1]), alone, atol=0, rtol=0)  # nor do those that were read before


@pytest.mark.parametrize("name", SWITCHING)
def test_the_check_sees_rope_that_looks_at_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv_gym.llm.frozen.text_limit", lambda model: None)
    truths = {truth.claim: truth.held for truth in check_truths(frozen(SWITCHING[name]))}
    assert truths.pop("a row does not see the length of others") is False


def test_longrope_with_one_set_of_factors_has_no_end() -> None:
    same = LONGROPE | {"short_factor": FACTORS["long_factor"]}
    config = Phi3Config(**NO_WIDTH, rope_parameters=same, original_max_position_embeddings=ORIGINAL)
    llm, tokens = frozen(config), texts(1, 2 * ORIGINAL)
    assert llm.limit is None
    torch.testing.assert_close(read(llm, tokens), plain_model(config)(tokens).logits, atol=1e-5, rtol=0)


WINDOWED = {
    "sliding layers": Gemma3TextConfig(**SIZES, sliding_window=48, layer_types=["sliding_attention", "full_attention"]),
    "a window that no layer names": MistralConfig(**SIZES, sliding_window=48),
    "a window in spite of its layers": MistralConfig(**SIZES, sliding_window=48, layer_types=["full_attention"] * 2),
    "chunked layers": Llama4TextConfig(
        **SIZES, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=48,
        layer_types=["chunked_attention", "full_attention"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWED)
def test_layers_with_a_window_are_full_attention_up_to_it(name: str) -> None:
    llm, plain, tokens = frozen(WINDOWED[name]), plain_model(WINDOWED[name]), texts(2, 56)
    assert llm.limit is not None and llm.limit.tokens == 48
    assert all(truth.held for truth in check_truths(llm, long=1024))
    gaps = (read(llm, tokens) - plain(tokens).logits).abs().amax((0, 2))
    assert gaps[:48].max() < 1e-5 < 1e-4 < gaps[48:].min(), "the first token past the window is wrong"


def test_a_window_that_nothing_uses_is_no_end() -> None:
    config = Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=16, layer_types=["full_attention"] * 2)
    llm, tokens = frozen(config), texts(2, 56)
    assert llm.limit is None and config.sliding_window == 16, "the config is as it was"
    torch.testing.assert_close(read(llm, tokens), plain_model(config)(tokens).logits, atol=1e-5, rtol=0)


def llama4(**options: Any) -> Llama4TextConfig:
    return Llama4TextConfig(
        **SIZES, intermediate_size_mlp=48, num_local_experts=2, layer_types=["full_attention"] * 2,
        no_rope_layers=[1, 0], **options,
    )  # fmt: skip


def test_queries_that_are_scaled_by_the_cache_are_right_while_no_scale_is_past_1() -> None:
    """The plain model scales from token 65 on; read at once, ours would from the first text of 33 on."""
    config = llama4(floor_scale=65, attn_scale=2.0)
    llm, plain, tokens = frozen(config), plain_model(config), texts(2, 40)
    assert llm.limit is not None and llm.limit.tokens == 32 and "floor_scale=65" in llm.limit.why
    assert all(truth.held for truth in check_truths(llm, long=1024))
    torch.testing.assert_close(read(llm, tokens[:, :32]), plain(tokens[:, :32]).logits, atol=1e-5, rtol=0)
    gap = (read(llm, tokens[:, :33]) - plain(tokens[:, :33]).logits).abs().amax((0, 2))
    assert gap[-1] > 1e-4, "the first text past the limit is wrong"
    assert text_limit(plain_model(llama4())).tokens == 4095, "the published models: below the half of 8192"
    assert frozen(llama4(floor_scale=64)).limit.tokens == 31
    assert text_limit(plain_model(llama4(attn_temperature_tuning=False))) is None


ALPHA = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}


def test_dynamic_rope_with_an_alpha_is_static_where_its_class_says_so() -> None:
    sizes = {**SIZES, "max_position_embeddings": ORIGINAL}
    config = HunYuanDenseV1Config(**sizes, rope_parameters=ALPHA)
    llm, tokens = frozen(config), texts(2, ORIGINAL + 8)
    if "dynamic" in llm.model.get_decoder().rotary_emb.rope_type:  # transformers 5.2: it is turned anew all the same
        assert llm.limit is not None and llm.limit.tokens == ORIGINAL
        return
    assert llm.limit is None and all(truth.held for truth in check_truths(llm, long=2 * ORIGINAL))
    torch.testing.assert_close(read(llm, tokens), plain_model(config)(tokens).logits, atol=1e-5, rtol=0)
    other = frozen(LlamaConfig(**sizes, rope_parameters=ALPHA))
    assert other.limit is not None and other.limit.tokens == ORIGINAL, "Llama's reads no alpha"


def test_positions_in_a_table_end_with_it() -> None:
    llm = frozen(GPT2Config(vocab_size=63, n_embd=32, n_layer=2, n_head=4, n_positions=80))
    assert llm.limit is not None and llm.limit.tokens == 80
    assert all(truth.held for truth in check_truths(llm, long=1024))


def test_a_prompt_that_no_env_plays_does_not_stop_the_others() -> None:
    """Benchmarks read all problems of a set before they leave out those whose prompts are too long."""
    llm = frozen(GPT2Config(vocab_size=63, n_embd=32, n_layer=2, n_head=4, n_positions=80))
    problems = [Problem(id=str(n), family="f", prompt="1+1=" * n, answer="2") for n in (2, 40)]
    both = dict(generate_references(llm, problems, [0, 0], Decoding(), 40, 8))
    assert len(both[1]) > 80
    [(_, alone)] = generate_references(llm, problems[:1], [0], Decoding(), 40, 8)
    assert torch.equal(both[0].tokens, alone.tokens)
    torch.testing.assert_close(both[0].surprisal, alone.surprisal, atol=1e-5, rtol=0)


def test_an_env_whose_texts_are_too_long_is_refused_with_what_to_set() -> None:
    llm = frozen(SWITCHING["phi3 longrope"])
    config = make_config(
        "KVEvict-AIME-v0", budget=24, evict_every=4, max_prompt_tokens=16, max_new_tokens=40, max_answer_tokens=8
    )
    assert text_capacity(config) == 72
    with pytest.raises(ConfigError, match=r"right for texts of up to 64 tokens.*may hold 72.*max_new_tokens <= 32, or"):
        ReferenceStore(llm, config)
    ReferenceStore(llm, config.model_copy(update={"max_new_tokens": 32}))
    with pytest.raises(ConfigError, match="Set max_prompt_tokens and max_new_tokens lower"):
        check_capacity(llm, config.model_copy(update={"max_prompt_tokens": 60}))


def test_a_window_of_a_few_tokens_cannot_be_checked() -> None:
    with pytest.raises(UnsupportedModelError, match="right for texts of 6 tokens only"):
        check_truths(frozen(MistralConfig(**SIZES, sliding_window=6)))
