"""Where a model lies: which folder, hub repository or file `model=` means, and which files its weights are in."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from kv_gym.errors import ConfigError, KVGymError, UnknownNameError, UnsupportedModelError
from kv_gym.problems.reach import hub_or_stored

_TINY = Path(__file__).parent / "tiny"
EMBEDDED = {"tiny": _TINY / "weights", "tiny-domains": _TINY / "domains"}


@dataclass(frozen=True)
class Source:
    """A model that is there.

    Attributes:
        name: What was asked for.
        path: Folder or hub id, as transformers wants it.
        revision: Hub revision; None for the main branch and for what is local.
        gguf: Name of the file in `path`, or "".
    """

    name: str
    path: str
    revision: str | None = None
    gguf: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of transformers' `from_pretrained`."""
        gguf = {"gguf_file": self.gguf} if self.gguf else {}
        return {"revision": self.revision, "trust_remote_code": False, **gguf}

    @property
    def is_local(self) -> bool:
        """Whether it is a folder or file here."""
        return os.path.isdir(self.path)

    def file(self, name: str) -> Path | None:
        """One of its files, downloaded if need be; None if it has none of that name.

        Raises:
            OSError: The hub cannot be reached.
        """
        if self.is_local:
            path = Path(self.path, name)
            return path if path.is_file() else None
        found = cached_file(self.path, name, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    def weight_files(self) -> list[Path]:
        """The files that its weights are in.

        Raises:
            UnsupportedModelError: There are none, only pickled ones, or fewer than its index names.
        """
        if self.gguf:
            return [Path(self.path, self.gguf)]
        with foreign(self.name, "its weights"):
            whole, index = self.file(SAFE_WEIGHTS_NAME), None
            if whole is None:
                index = self.file(SAFE_WEIGHTS_INDEX_NAME)
                shards = [] if index is None else sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
                files = {shard: self.file(shard) if shard == Path(shard).name else None for shard in shards}
        if whole is not None:
            return [whole]
        if index is None:
            raise UnsupportedModelError(
                f"model {self.name!r} has neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}. Pickled weights "
                "(pytorch_model.bin) are not read, because reading them can run code: convert them, if you trust them "
                "(`AutoModelForCausalLM.from_pretrained(old).save_pretrained(new)`), or pass a model in "
                "safetensors."
            )
        lost = [shard for shard, file in files.items() if file is None]
        if lost or not files:
            raise UnsupportedModelError(
                f"model {self.name!r}: {SAFE_WEIGHTS_INDEX_NAME} names {listed(lost) or 'no file'}, which "
                f"{'are' if len(lost) > 1 else 'is'} not there. All of its {len(files)} files must lie beside it: copy "
                "or download the model again."
            )
        return [file for file in files.values() if file is not None]


def hub_for(name: str) -> contextlib.AbstractContextManager[None]:
    """What a model's files are read in: if it is one of the hub, offline where that does not answer."""
    here = name in EMBEDDED or name.endswith(".gguf") or not name or os.path.exists(name)
    return contextlib.nullcontext() if here else hub_or_stored()


def find_source(name: str, revision: str | None = None) -> Source:
    """Find a model by name.

    Args:
        name: ``tiny``, a local folder, a local ``.gguf`` file, or a Hugging Face id.
        revision: Hub revision.

    Raises:
        UnknownNameError: No such model here or on the hub.
        ConfigError: A ``.gguf`` file without the packages that read it.
    """
    if name in EMBEDDED:
        return Source(name, str(EMBEDDED[name]))
    if name.endswith(".gguf"):
        return _gguf(name)
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, CONFIG_NAME)):
            raise _unknown(name, revision, f"this folder has no {CONFIG_NAME}")
        return Source(name, name)
    if not name or os.path.exists(name):
        raise _unknown(name, revision, "this is a file" if name else "this is no name")
    source = Source(name, name, revision)
    try:
        config = source.file(CONFIG_NAME)
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds, and ValueError for odd names
        raise _unknown(name, revision, brief(error)) from error
    if config is None:
        raise _unknown(name, revision, f"its {CONFIG_NAME} is neither stored here nor to be had from the hub")
    return source


@contextlib.contextmanager
def foreign(
    name: str, what: str, remedy: str = "Copy or download it again, or choose another model."
) -> Iterator[None]:
    """Turn whatever transformers, and what it calls, raises inside into one sentence.

    Args:
        name: The model.
        what: The part of it that is read.
        remedy: What to do.

    Raises:
        UnsupportedModelError: Something was raised; our own errors stay what they are.
    """
    try:
        yield
    except KVGymError:
        raise
    except Exception as error:
        raise UnsupportedModelError(f"model {name!r}: {what} cannot be read ({brief(error)}). {remedy}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow progress bars, one of which has no switch, and the table of what is missing: we say it in a sentence."""
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(before)


def brief(error: BaseException) -> str:
    """Class and first line of an error of somebody else's, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def listed(names: list[str]) -> str:
    """The first three of many names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:100] for name in names[:3]) + more


def _unknown(name: str, revision: str | None, why: str) -> UnknownNameError:
    return UnknownNameError(
        f"model {name[:200]!r} (revision {revision}) cannot be found: it is neither embedded ({', '.join(EMBEDDED)}), "
        f"nor a folder with {CONFIG_NAME}, nor a .gguf file, nor reachable on the Hugging Face hub. Check the name or "
        f"pass a folder. ({why})"
    )


def _gguf(name: str) -> Source:
    """A GGUF file.

    Raises:
        UnknownNameError: There is no such file.
        ConfigError: The packages that read it are missing.
    """
    if not os.path.isfile(name):
        raise UnknownNameError(f"model {name[:200]!r}: there is no such file. Check the path.")
    folder, file = os.path.split(name)
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"{file} needs {' and '.join(missing)} to be read. Install them: pip install kv-gym[gguf].")
    return Source(name, folder or os.curdir, gguf=file)
