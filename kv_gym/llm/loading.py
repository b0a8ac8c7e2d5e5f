"""Load a frozen LLM by name."""

from __future__ import annotations

import contextlib
import functools
import json
from weakref import WeakValueDictionary

import torch
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from kv_gym.config import EnvConfig
from kv_gym.errors import ConfigError
from kv_gym.llm.device import find_device
from kv_gym.llm.fingerprint import file_stamps
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.outline import ModelSizes, outline, sizes_of
from kv_gym.llm.proofs import proven
from kv_gym.llm.source import EMBEDDED, Source, find_source, foreign, hub_for
from kv_gym.llm.support import foreign_code
from kv_gym.llm.vocabulary import check_vocabulary, read_tokenizer
from kv_gym.llm.weights import read_weights

__all__ = ["DTYPES", "EMBEDDED", "forget_llm", "is_loaded", "load_llm", "model_sizes"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_llm(name: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu") -> FrozenLLM:
    """Load a model once per process.

    Args:
        name: ``tiny``, a local folder, a local ``.gguf`` file, or a Hugging Face id.
        revision: Hub revision; None for local ones.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: A torch device.

    Raises:
        UnknownNameError: No such model here or on the hub.
        UnsupportedModelError: Its layers cannot be evicted slot by slot, a check fails, its own code does, or its files
            are damaged or do not belong together.
        ConfigError: Unknown dtype, a device that is not here, or a ``.gguf`` file without the packages that read it.
    """
    check_names(name, revision, dtype, device)
    loaded = contextlib.nullcontext() if is_loaded(name, revision, dtype, device) else hub_for(name)
    with foreign_code(name, "it was loaded"), loaded:
        return _load(name, revision, dtype, device)


def check_names(name: object, revision: object, dtype: object, device: object) -> None:
    """Refuse what names no model, dtype or device.

    Raises:
        ConfigError: Says which.
    """
    for option, value in (("model", name), ("revision", revision), ("device", device)):
        if not isinstance(value, str) and not (option == "revision" and value is None):
            raise ConfigError(f"{option}={value!r} is of type {type(value).__name__}. Give a text.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")


def model_sizes(name: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu") -> ModelSizes:
    """Read how large a model is from its config; its weights are not read, and need not be there.

    Args and errors are those of `load_llm`. The device needs not be there either.
    """
    check_names(name, revision, dtype, device)
    with foreign_code(name, "its config was read"), hub_for(name):
        return sizes_of(outline(find_source(name, revision)), DTYPES[dtype], torch.device(device))


_LOADED: WeakValueDictionary[tuple[str, str | None, str, str], FrozenLLM] = WeakValueDictionary()


def is_loaded(name: str, revision: str | None, dtype: str, device: str) -> bool:
    """Whether a model's weights are in memory already."""
    return (name, revision, dtype, device) in _LOADED


@functools.lru_cache(maxsize=4)  # keyed by position: defaults that are written out give the same entry
def _load(name: str, revision: str | None, dtype: str, device: str) -> FrozenLLM:
    place, source = find_device(device), find_source(name, revision)
    outline(source)  # a model is refused by its config before its weights are read
    _check_generation_config(source)
    tokenizer, files = read_tokenizer(source), source.weight_files()
    stamps = file_stamps(files)
    model = read_weights(source, DTYPES[dtype])
    check_vocabulary(name, tokenizer, model)
    if file_stamps(files) != stamps:
        raise ConfigError(f"model {name!r}: its files were changed while they were read. Try again when they are done.")
    try:
        model.to(place)  # type: ignore[arg-type]  # transformers wraps torch's method without its types
    except RuntimeError as error:  # out of memory, most likely
        raise ConfigError(
            f"model {name!r} in {dtype} does not fit on device={device!r}: {str(error).splitlines()[0][:200]} Use a "
            "shorter dtype, a smaller model or another device."
        ) from error
    llm = proven(FrozenLLM(model, tokenizer, name, stamps))
    _LOADED[name, revision, dtype, device] = llm
    return llm


def _check_generation_config(source: Source) -> None:
    """Refuse a file that transformers would pass over without a word, stop tokens and all.

    Raises:
        UnsupportedModelError: It is no JSON object, or has values that are not allowed.
    """
    with foreign(source.name, f"its {GENERATION_CONFIG_NAME}", "Mend or delete that file."):
        file = None if source.gguf else source.file(GENERATION_CONFIG_NAME)
        if file is not None:
            values = json.loads(file.read_bytes())
            if not isinstance(values, dict):
                raise TypeError(f"it holds a {type(values).__name__}, not an object")
            GenerationConfig.from_dict(values)


def load_anew(config: EnvConfig, changed: FrozenLLM) -> FrozenLLM:
    """Load the model that somebody changed, as it was.

    Raises:
        ConfigError: There is another model now where it was loaded from.
    """
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    if llm.fingerprint != changed.fingerprint:
        raise ConfigError(
            f"an agent changed the model {changed.name!r}, and what is loaded anew is another one (fingerprint "
            f"{llm.fingerprint[:12]}, it was {changed.fingerprint[:12]}). Put its files back."
        )
    return llm


def forget_llm() -> None:
    """Load models anew from now on: one that was loaded has been changed."""
    _load.cache_clear()
