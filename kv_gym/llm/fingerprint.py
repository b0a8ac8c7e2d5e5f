"""Which model made a number: a hash of everything of it that can move a token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kv_gym.llm.known import former_fingerprints

VOLATILE = {
    "transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "architectures", "output_attentions",
    "output_hidden_states", "return_dict", "attn_implementation", "_attn_implementation", "initializer_range",
}  # fmt: skip
"""Keys of a config that move no token, or that libraries write anew; the dtype of the weights is hashed by itself."""


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> str:
    """SHA-256 over weights, dtype, architecture, the whole config, stop tokens, tokenizer and chat template."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes())
    parts = [
        type(model).__name__, str(model.dtype), stable_config(model.config.to_diff_dict()), sorted(stop_ids),
        serialised(tokenizer), tokenizer.chat_template,
    ]  # fmt: skip
    digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def stable_config(config: Any) -> Any:
    """A config without what moves nothing, at every depth; what is not set is left out."""
    if not isinstance(config, dict):
        return config
    return {
        str(name): stable_config(value)
        for name, value in config.items()
        if name not in VOLATILE and value is not None and not str(name).startswith("_")
    }


def serialised(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a tokenizer does, as JSON values; how texts were padded last is no part of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs]
    whole = json.loads(backend.to_str())
    return {name: value for name, value in whole.items() if name not in ("truncation", "padding")}


def same_model(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same model; one of them may be from before they covered everything."""
    former = former_fingerprints()
    return former.get(one, one) == former.get(other, other)
