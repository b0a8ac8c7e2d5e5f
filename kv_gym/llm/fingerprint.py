"""Which model made a number: a hash of everything of it that can move a token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kv_gym.files import cache_folder, write_whole
from kv_gym.llm.known import former_fingerprints

Stamp = tuple[str, int, int, int]
"""A file at one time: where it is, its bytes, and when its content and its entry changed last, nanoseconds."""
LARGE = 64 * 2**20
"""Bytes of weight files from which on a fingerprint is kept: below, hashing takes less than half a second."""

VOLATILE = {
    "transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "architectures", "output_attentions",
    "output_hidden_states", "return_dict", "attn_implementation", "_attn_implementation", "initializer_range",
}  # fmt: skip
"""Keys of a config that move no token, or that libraries write anew; the dtype of the weights is hashed by itself."""


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], files: Sequence[Stamp] = ()
) -> str:
    """SHA-256 over weights, dtype, architecture, the whole config, stop tokens, tokenizer and chat template.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        stop_ids: Tokens that end a text.
        files: The files that `model` has just been read from, untouched since; where they are large, the hash is kept
            in the cache folder. Without them everything is hashed as it is in memory now.
    """
    parts = [
        type(model).__name__, str(model.dtype), stable_config(model.config.to_diff_dict()), sorted(stop_ids),
        serialised(tokenizer), tokenizer.chat_template,
    ]  # fmt: skip
    rest = json.dumps(parts, sort_keys=True, default=str)
    if sum(size for _, size, _, _ in files) < LARGE:
        return _hash(model, rest)
    kept = cache_folder() / "fingerprints" / _key(model, rest, files)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", known := kept.read_text(encoding="ascii")):
            return known
    found = _hash(model, rest)
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs time and nothing else
        write_whole(kept, found.encode("ascii"))
    return found


def file_stamps(files: Sequence[Path]) -> tuple[Stamp, ...]:
    """What tells whether files are still the ones that they were."""
    found = [(path.resolve(), path.stat()) for path in files]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found)


def _hash(model: PreTrainedModel, rest: str) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy())
    digest.update(rest.encode())
    return digest.hexdigest()


def _key(model: PreTrainedModel, rest: str, files: Sequence[Stamp]) -> str:
    """Name of a kept fingerprint: everything that decides it, with the files in place of what they hold."""
    tensors = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in sorted(model.state_dict().items())]
    readers = [transformers.__version__, torch.__version__]
    return hashlib.sha256(json.dumps([rest, tensors, list(files), readers]).encode()).hexdigest()


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
