"""Reading changes nothing of a model; checksums know values and places, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

from kv_gym.bench.checksums import Snapshot, checksums
from kv_gym.bench.model_state import ModelState
from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.tiny.tokenizer import build_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 63, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 4.0}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama whose RoPE stretches": lambda: LlamaConfig(**SIZES, rope_parameters=dict(ROPE)),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
    "phi3": lambda: Phi3Config(**SIZES),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_reading_is_no_change(family: str) -> None:
    llm = FrozenLLM(AutoModelForCausalLM.from_config(CONFIGS[family]()), build_tokenizer(), family)
    state = ModelState(llm)
    length = 100  # longer than the model's positions
    llm.read(torch.full((1, length), 5), torch.arange(length)[None], FullCache(llm.shape, 1, length))
    llm.encode_prompt("1+1?")
    assert llm.output_weights is not None and state.changes(llm) == []
    llm.model.get_decoder().layers[0].mlp.down_proj.weight.data[0, 0] += 1
    assert state.changes(llm) == ["the model's model.layers.0.mlp.down_proj.weight"]


FORMS: dict[str, Tensor] = {
    "float32": torch.randn(3, 1021, 8),
    "odd bfloat16": torch.randn(2049).bfloat16(),
    "a part": torch.randn(5000)[1:4000],
    "not contiguous": torch.randn(70, 60).T,
    "bool": torch.rand(5000) > 0.5,
    "int64": torch.randint(0, 9, (4, 2000)),
    "one": torch.randn(()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checksum_knows_values_and_places(form: str) -> None:
    tensor = FORMS[form].clone(memory_format=torch.preserve_format) if form != "a part" else FORMS[form]
    [before] = checksums([tensor])
    flat = tensor.reshape(-1)
    swapped = flat.clone()
    place = int((flat != flat[0]).nonzero()[-1]) if flat.numel() > 1 else 0
    swapped[0], swapped[place] = flat[place], flat[0]
    changed = flat.clone()
    changed[-1] = ~changed[-1] if tensor.dtype == torch.bool else changed[-1] + 1
    assert checksums([changed.reshape(tensor.shape)]) != [before]
    assert flat.numel() == 1 or checksums([swapped.reshape(tensor.shape)]) != [before]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert checksums([tensor]) == [before]
    finally:
        torch.set_num_threads(threads)


def test_numbers_that_are_none_have_a_checksum() -> None:
    one, other = torch.full((9,), torch.nan), torch.full((9,), torch.nan)
    other[3] = torch.inf
    assert checksums([one]) == checksums([one.clone()]) != checksums([other])


@pytest.mark.parametrize("n", [3, 2**19])
def test_a_snapshot_names_what_was_written_behind_torch(n: int) -> None:
    """Small tensors are copied, of large ones a checksum is kept."""
    tensors = {"a": torch.zeros(n), "b": torch.zeros(n), "flags": torch.zeros(3, dtype=torch.bool)}
    snapshot = Snapshot(tensors)
    assert snapshot.changes() == []
    tensors["b"].numpy()[n // 2] = 1
    assert snapshot.changes() == ["b"]
    tensors["a"].resize_(1)
    assert snapshot.changes() == ["a"]
