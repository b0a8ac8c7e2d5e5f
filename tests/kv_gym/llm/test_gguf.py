"""A random Llama as a GGUF file, as llama.cpp's converter would write it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM

from kv_gym.errors import ConfigError, UnknownNameError, UnsupportedModelError
from kv_gym.llm.cache import FullCache
from kv_gym.llm.loading import load_llm

VOCABULARY = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "ab"]
TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF pairs neighbouring channels for RoPE, transformers pairs halves."""
    rows = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(weight.shape))


def write_gguf(model: Any, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(VOCABULARY)
    writer.add_token_merges(["a b"])
    for add, token in ((writer.add_unk_token_id, 0), (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2)):
        add(token)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for theirs, ours in (("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")):
        writer.add_tensor(f"{theirs}.weight", weights[f"{ours}.weight"])
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for ours, theirs in TENSORS.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            writer.add_tensor(
                f"blk.{layer}.{theirs}.weight", interleaved(weight, heads[theirs]) if theirs in heads else weight
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.10"),
    reason="older transformers read no GGUF without sentencepiece",
)
def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(VOCABULARY), max_position_embeddings=512, initializer_range=0.4, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    write_gguf(model, tmp_path / "random.gguf")
    capfd.readouterr()
    llm = load_llm(str(tmp_path / "random.gguf"))
    assert capfd.readouterr().err == "", "no progress bar"
    tokens = torch.randint(3, len(VOCABULARY), (1, 12))
    found = llm.read(tokens, torch.arange(12)[None], FullCache(llm.shape, 1, 12))
    torch.testing.assert_close(found, model(tokens).logits, atol=1e-5, rtol=0)
    assert llm.encode_prompt("abc 12") == [VOCABULARY.index(token) for token in ("ab", "c", "Ġ", "1", "2")]
    assert llm.decode(llm.encode("abc 12")) == "abc 12" and llm.tokenizer.chat_template is None


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"no such file"):
        load_llm(str(tmp_path / "none.gguf"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, or so it says")
    with pytest.raises(UnsupportedModelError, match=r"broken\.gguf.* cannot be read \((error|ValueError): "):
        load_llm(str(tmp_path / "broken.gguf"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"broken\.gguf needs gguf and accelerate.*pip install kv-gym\[gguf\]"):
        load_llm(str(tmp_path / "broken.gguf"))
