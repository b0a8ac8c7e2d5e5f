"""What agents see of an LLM's weights: queries as they were before RoPE, RoPE itself, and the output projection."""

import copy

import pytest
import torch
from families import EVERY, FAMILIES, SIZES, SLOTS, N, evicting_run, plain_model, span
from transformers import AutoModelForCausalLM, Phi3Config, Qwen3Config

from kv_gym.engine.slots import SlotView
from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.attention import unrotate, unrotation
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.tiny.tokenizer import build_tokenizer

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
ROPES = FAMILIES | {
    "scaled": Qwen3Config(**SIZES, rope_parameters=YARN),  # cos^2 + sin^2 is not 1
    "partial": Phi3Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}, rope_parameters=PARTIAL),
}


@pytest.fixture(params=ROPES, scope="module")
def llm(request):
    return FrozenLLM(plain_model(ROPES[request.param]), build_tokenizer(), request.param)


def view_of(cache, llm, length):
    zeros = torch.zeros(N, dtype=torch.long)
    tables = torch.zeros(N, length)
    protected = torch.zeros(cache.positions.transpose(0, 1).shape, dtype=torch.bool)
    return SlotView(cache, protected, zeros, zeros + length, zeros, zeros, tables, tables, llm)


def watch_queries(llm):
    """Note what each layer projects its states to, before RoPE; returns a list a layer of [N, T, H_q, D]."""
    shape, seen = llm.shape, [[] for _ in range(llm.shape.n_layers)]
    for layer, noted in zip(llm.model.model.layers, seen, strict=True):
        attention = layer.self_attn
        last = getattr(attention, "q_norm", None) or getattr(attention, "q_proj", None) or attention.qkv_proj

        def note(module, args, output, noted=noted):
            heads = output.flatten(2)[..., : shape.n_q_heads * shape.head_dim]  # a fused projection has queries first
            noted.append(heads.reshape(*output.shape[:2], shape.n_q_heads, shape.head_dim))

        last.register_forward_hook(note)
    return seen


def test_unrotated_queries_are_what_the_model_rotated(llm, tokens):
    seen = watch_queries(llm)
    _, cache, _ = evicting_run(llm, tokens, chunked=False)
    length = tokens.shape[1]
    expected = torch.stack([torch.cat(chunks, 1) for chunks in seen], 1).transpose(2, 3)  # [N, L, H_q, T, D]
    view = view_of(cache, llm, length)
    for n in (1, EVERY, cache.n_obs):
        found = view.unrotated_queries(n)
        assert found.dtype == torch.float32 and found.shape == (N, 2, 4, n, 8)
        torch.testing.assert_close(found, expected[..., length - n :, :], atol=1e-5, rtol=0)
        assert torch.equal(view.query_positions(n), span(length - n, length))
    rotated = cache.queries.transpose(0, 1)
    assert (rotated[..., -EVERY:, :] - expected[..., -EVERY:, :]).abs().max() > 1e-2, "RoPE must matter"


def test_unrotated_queries_that_do_not_exist_are_zero(llm, tokens):
    cache = SlotCache(llm.shape, N, SLOTS - EVERY, EVERY)
    llm.read(tokens[:, :SLOTS], span(0, SLOTS), cache)
    view, missing = view_of(cache, llm, SLOTS), cache.n_obs - SLOTS
    assert missing > 0
    assert not view.unrotated_queries(cache.n_obs)[..., :missing, :].any()
    assert view.query_positions(cache.n_obs)[:, :missing].eq(-1).all()
    assert torch.equal(view.query_positions(SLOTS), span(0, SLOTS))


def test_rotary_turns_unrotated_queries_into_those_of_the_cache(llm, tokens):
    _, cache, _ = evicting_run(llm, tokens, chunked=True)
    view = view_of(cache, llm, tokens.shape[1])
    cos, sin = view.rotary(view.query_positions(EVERY))
    width = cos.shape[-1]
    queries = view.unrotated_queries(EVERY)
    first, second = queries[..., :width].chunk(2, -1)
    turned = queries[..., :width] * cos[:, None, None] + torch.cat([-second, first], -1) * sin[:, None, None]
    expected = cache.queries.transpose(0, 1)[..., -EVERY:, :]
    torch.testing.assert_close(torch.cat([turned, queries[..., width:]], -1), expected, atol=1e-5, rtol=0)


def test_rotary_by_hand():
    llm = FrozenLLM(plain_model(FAMILIES["llama"]), build_tokenizer(), "llama")
    positions = torch.tensor([[0, 7], [1000, 3]])  # rows have positions of their own
    angles = positions[..., None] * torch.tensor([1.0, 0.1, 0.01, 0.001] * 2)  # 10000 ** (-2 i / 8), in halves
    cos, sin = llm.rotary(positions)
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos, angles.cos(), atol=1e-4, rtol=0)
    torch.testing.assert_close(sin, angles.sin(), atol=1e-4, rtol=0)


def test_rotary_is_float32_in_half_precision():
    config = copy.deepcopy(FAMILIES["llama"])  # from_config writes the dtype into it
    half = FrozenLLM(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), build_tokenizer(), "llama")
    whole = FrozenLLM(plain_model(FAMILIES["llama"]), build_tokenizer(), "llama")
    assert half.shape.dtype == torch.bfloat16 and whole.shape.dtype == torch.float32
    positions = torch.arange(250)[None]
    for found, expected in zip(half.rotary(positions), whole.rotary(positions), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_unrotate_by_hand():
    # channels 0 and 2 turn by the angle of (cos, sin) = (0.6, 0.8), 1 and 3 by a right angle; channel 4 does not turn
    cos, sin = torch.tensor([0.6, 0.0, 0.6, 0.0]), torch.tensor([0.8, 1.0, 0.8, 1.0])
    rotated = torch.tensor([[0.6 * 5 - 0.8 * 10, -3.0, 0.8 * 5 + 0.6 * 10, 2.0, 9.0]])
    expected = torch.tensor([[5.0, 2.0, 10.0, 3.0, 9.0]])
    torch.testing.assert_close(unrotate(rotated, *unrotation(cos, sin)), expected, atol=1e-5, rtol=0)
    stretched = rotated * torch.tensor([2.0, 2.0, 2.0, 2.0, 1.0])
    scaled = unrotate(stretched, *unrotation(2 * cos, 2 * sin))  # RoPE that stretches by 2
    torch.testing.assert_close(scaled, expected, atol=1e-5, rtol=0)


def test_output_weights_add_up_to_the_output_projection(llm, tokens):
    noted = []
    for layer in llm.model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(lambda module, args, output: noted.append((args[0], output)))
    llm.read(tokens, span(0, tokens.shape[1]), SlotCache(llm.shape, N, tokens.shape[1] - EVERY, EVERY))
    weights = llm.output_weights
    assert weights.shape == (2, 2, 2, 8, 32) and len(noted) == 2
    for layer, (heads, projected) in enumerate(noted):
        total = torch.zeros_like(projected)
        for q_head in range(4):
            one = heads[..., 8 * q_head : 8 * q_head + 8]  # attention output of this query head, [N, T, D]
            total += one @ weights[layer, q_head // 2, q_head % 2]
        torch.testing.assert_close(total, projected, atol=1e-5, rtol=0)
        assert projected.abs().max() > 1e-2


def test_rotary_check_passes_where_rope_can_be_undone(llm):
    llm.check_rotary()


def test_rotary_check_refuses_interleaved_rope_and_layers_without():
    from transformers import CohereConfig, SmolLM3Config

    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    for config in (CohereConfig(**sizes), SmolLM3Config(**sizes, no_rope_layers=[1, 0])):
        llm = FrozenLLM(plain_model(config), build_tokenizer(), "other")
        with pytest.raises(UnsupportedModelError, match="queries before RoPE differ"):
            llm.check_rotary()
