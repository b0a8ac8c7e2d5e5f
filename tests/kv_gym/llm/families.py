"""Random small models of every supported family, and a run with random evictions."""

import copy

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

from kv_gym.llm.cache import SlotCache

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
    """Read with random evictions.

    Returns:
        (logits from the last prefill token on, the cache, which slots each query could see [L, N, H_kv, T, T]).
    """
    generator = torch.Generator().manual_seed(2)
    cache = SlotCache(llm.shape, N, BUDGET, EVERY, track=True)
    length = tokens.shape[1]
    live = torch.ones(llm.shape.n_layers, N, llm.shape.n_kv_heads, 1, length, dtype=torch.bool)
    seen = [live.expand(-1, -1, -1, SLOTS, -1)]
    logits = [llm.read(tokens[:, :SLOTS], span(0, SLOTS), cache)[:, -1:]]
    cache.settle()
    for start in range(SLOTS, length, EVERY):
        order = torch.rand(cache.positions.shape, generator=generator).argsort(-1)
        gone = cache.positions.gather(-1, order[..., BUDGET:])
        live = live.scatter(-1, gone[..., None, :], False)
        seen.append(live.expand(-1, -1, -1, EVERY, -1))
        cache.evict(order[..., :BUDGET].sort(-1).values)
        steps = [(start, start + EVERY)] if chunked else [(t, t + 1) for t in range(start, start + EVERY)]
        logits.extend(llm.read(tokens[:, a:b], span(a, b), cache) for a, b in steps)
        cache.settle()
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return torch.cat(logits, 1), cache, torch.cat(seen, -2) & causal
