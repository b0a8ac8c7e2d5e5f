"""Load a frozen LLM by name."""

from __future__ import annotations

import functools
import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from kv_gym.errors import ConfigError
from kv_gym.llm.device import find_device
from kv_gym.llm.fingerprint import file_stamps
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.proofs import proven
from kv_gym.llm.source import EMBEDDED, Source, find_source, foreign, quiet
from kv_gym.llm.support import check_supported, foreign_code
from kv_gym.llm.vocabulary import check_vocabulary, read_tokenizer
from kv_gym.llm.weights import read_weights

__all__ = ["DTYPES", "EMBEDDED", "forget_llm", "load_llm"]

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
    for option, value in (("model", name), ("revision", revision), ("device", device)):
        if not isinstance(value, str) and not (option == "revision" and value is None):
            raise ConfigError(f"{option}={value!r} is of type {type(value).__name__}. Give a text.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    with foreign_code(name, "it was loaded"):
        return _load(name, revision, dtype, device)


@functools.lru_cache(maxsize=4)  # keyed by position: defaults that are written out give the same entry
def _load(name: str, revision: str | None, dtype: str, device: str) -> FrozenLLM:
    place, source = find_device(device), find_source(name, revision)
    _check_config(source)
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
    return proven(FrozenLLM(model, tokenizer, name, stamps))


def _check_config(source: Source) -> None:
    """Refuse a model by its config, before its weights are read.

    Raises:
        UnsupportedModelError: The config is damaged, of an unknown kind, or of layers that cannot be evicted from.
    """
    unknown = "Download it again, or choose a model type that this transformers knows."
    with foreign(source.name, "its config", unknown), quiet():
        config = AutoConfig.from_pretrained(source.path, **source.options)
    values = "Mend its values (hidden_act, rope_parameters, sizes): they must be ones that this transformers knows."
    with foreign(source.name, "its config", values), quiet(), torch.device("meta"):
        check_supported(config.get_text_config())
        AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)


def _check_generation_config(source: Source) -> None:
    """Refuse a file that transformers would pass over without a word, stop tokens and all.

    Raises:
        UnsupportedModelError: It is no JSON object, or has values that are not allowed.
    """
    with foreign(source.name, f"its {GENERATION_CONFIG_NAME}", "Mend or delete that file."):
        file = None if source.gguf else source.file(GENERATION_CONFIG_NAME)
        if file is not None:
            GenerationConfig.from_dict(dict(json.loads(file.read_bytes())))


def forget_llm() -> None:
    """Load models anew from now on: one that was loaded has been changed."""
    _load.cache_clear()
