"""Load a frozen LLM by name."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.proofs import proven
from kv_gym.llm.support import check_supported, foreign_code

_TINY = Path(__file__).parent / "tiny"
EMBEDDED = {"tiny": _TINY / "weights", "tiny-domains": _TINY / "domains"}
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
        UnsupportedModelError: Its layers cannot be evicted slot by slot, a check fails, or its own code does.
        ConfigError: Unknown dtype, or a ``.gguf`` file without the packages that read it.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    with foreign_code(name, "it was loaded"):
        return _load(name, revision, dtype, device)


@functools.lru_cache(maxsize=4)  # keyed by position: defaults that are written out give the same entry
def _load(name: str, revision: str | None, dtype: str, device: str) -> FrozenLLM:
    path: Any = EMBEDDED.get(name, name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    if name.endswith(".gguf"):
        path, options["gguf_file"] = _gguf(Path(name))
    try:
        check_supported(AutoConfig.from_pretrained(path, **options).get_text_config())
        transformers_logging.disable_progress_bar()
        with _silent() if "gguf_file" in options else contextlib.nullcontext():
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=DTYPES[dtype], attn_implementation="eager", **options
            )  # which every model knows; FrozenLLM sets ours
    except (OSError, ValueError, struct.error, IndexError) as error:  # the last two for damaged GGUF files
        raise UnknownNameError(
            f"model {name!r} (revision {revision}) cannot be loaded: it is neither embedded ({', '.join(EMBEDDED)}), "
            "nor a folder with config.json, nor a readable .gguf file, nor reachable on the Hugging Face hub. Check "
            f"the name or pass a folder. ({error})"
        ) from error
    if tokenizer.chat_template == "":  # a GGUF file without one gives an empty text
        tokenizer.chat_template = None
    model.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps torch's method without its types
    return proven(FrozenLLM(model, tokenizer, name))


def forget_llm() -> None:
    """Load models anew from now on: one that was loaded has been changed."""
    _load.cache_clear()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Swallow the progress bar that transformers draws for GGUF files; it has no switch."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _gguf(path: Path) -> tuple[Path, str]:
    """Folder and name of a GGUF file, as transformers wants them.

    Raises:
        UnknownNameError: There is no such file.
        ConfigError: The packages that read it are missing.
    """
    if not path.is_file():
        raise UnknownNameError(f"model {str(path)!r}: there is no such file. Check the path.")
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{path.name} needs {' and '.join(missing)} to be read. Install them: pip install kv-gym[gguf]."
        )
    return path.parent, path.name
