"""A model without its weights: what its config makes of it, and how many bytes that will be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kv_gym.llm.cache import CacheShape
from kv_gym.llm.source import Source, foreign, quiet
from kv_gym.llm.support import check_supported


@dataclass(frozen=True)
class ModelSizes:
    """What a model takes memory by.

    Attributes:
        shape: Of its caches.
        weights: Of its parameters and buffers, bytes; what is tied counts once.
        hidden: Width of a token between layers.
        inner: Width of a token inside an MLP; of experts, of all that a token goes through.
        n_vocabulary: Width of the logits.
    """

    shape: CacheShape
    weights: int
    hidden: int
    inner: int
    n_vocabulary: int


def outline(source: Source) -> PreTrainedModel:
    """Build a model from its config alone, on torch's `meta` device, which holds shapes and no numbers.

    Raises:
        UnsupportedModelError: The config is damaged, of an unknown kind, or of layers that cannot be evicted from.
    """
    unknown = "Download it again, or choose a model type that this transformers knows."
    with foreign(source.name, "its config", unknown), quiet():
        config = AutoConfig.from_pretrained(source.path, **source.options)
    values = "Mend its values (hidden_act, rope_parameters, sizes): they must be ones that this transformers knows."
    with foreign(source.name, "its config", values), quiet(), torch.device("meta"):
        check_supported(config.get_text_config())
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
    return model


def sizes_of(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> ModelSizes:
    """Sizes of a model, as its config words them.

    Args:
        model: Weights are not read, so `outline` will do.
        dtype: Number format that it will be read in.
        device: Where it will live.
    """
    config: Any = model.config.get_text_config()
    hidden, n_q_heads = config.hidden_size, config.num_attention_heads
    shape = CacheShape(
        n_layers=config.num_hidden_layers,
        n_q_heads=n_q_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_q_heads,
        head_dim=getattr(config, "head_dim", None) or hidden // n_q_heads,
        dtype=dtype,
        device=device,
    )
    numbers = sum(weight.numel() for weight in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    return ModelSizes(shape, numbers * dtype.itemsize + buffers, hidden, _inner(config), config.vocab_size)


def _inner(config: Any) -> int:
    """Width inside an MLP."""
    names = ("intermediate_size", "n_inner", "ffn_dim")
    dense = next((value for name in names if (value := getattr(config, name, None))), 4 * config.hidden_size)
    experts = getattr(config, "num_experts_per_tok", None) or 0
    return int(max(dense, experts * (getattr(config, "moe_intermediate_size", None) or dense)))
