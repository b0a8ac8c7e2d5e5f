"""Random small models of every supported family, and a run with random evictions."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

from kv_gym.llm import check
from kv_gym.llm.accumulators import ACCUMULATORS
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.frozen import FrozenLLM

SIZES = {
    "vocab_size": 63,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
    "qwen3": Qwen3Config(**SIZES),
    "phi3": Phi3Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
}
N, BUDGET, EVERY, WINDOWS = 3, 12, 4, 4
SLOTS = BUDGET + EVERY


def plain_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager").eval()


def span(start, stop):
    return torch.arange(start, stop).expand(N, -1)


def evicting_run(llm, tokens, chunked):
    """Read with random evictions; see `kv_gym.llm.check.evicting_run`."""
    return check.evicting_run(llm, tokens, BUDGET, EVERY, chunked, track=tuple(ACCUMULATORS))


def shrink_positions(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a token's position be its slot."""
    forward = llm.forward

    def shrunken(tokens: Tensor, positions: Tensor, cache: SlotCache, last_only: bool) -> Tensor:
        slot = cache._cursor if getattr(cache, "_one_by_one", False) else cache.length - tokens.shape[1]
        return forward(tokens, positions - positions[:, :1] + slot, cache, last_only)

    monkeypatch.setattr(llm, "forward", shrunken)
