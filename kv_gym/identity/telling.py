"""How values are told as JSON: numbers and texts as they are, tensors by their bytes, objects by what copies hold."""

from __future__ import annotations

import enum
import hashlib
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from kv_gym.identity.places import FILE_MODULE, digest, place_of
from kv_gym.identity.scan import DATA
from kv_gym.identity.values import asked, canonical, text_hash

MAX_VALUES = 200_000  # that are told of one agent
MAX_TOLD = 500  # characters that are written down of a value; of a longer one the hash is
MAX_DEPTH = 100  # of values in values
PLAIN = (bool, int, float, str, type(None))


class NoNameError(ValueError):
    """A value that cannot be told from others of its kind."""


class Telling(ABC):
    """Tells values; who inherits says what modules, classes and functions are.

    Args:
        files: Files that are told by what they hold, not by where they lie: what to call them, by their paths.

    Attributes:
        reasons: Why something cannot be told.
        folders: Paths into these are told by the part below.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.reasons: list[str] = []
        self.folders: list[Path] = []
        self._path: list[int] = []
        self._count = 0

    @abstractmethod
    def _local(self, name: str) -> bool:
        """Whether a module is told by its source; of another one the version of its package counts."""

    @abstractmethod
    def _class(self, kind: type) -> str:
        """A class's place."""

    @abstractmethod
    def _callable(self, value: Any) -> Any:
        """A function, method or descriptor; None if it is something else."""

    def told(self, value: Any, what: str) -> Any:
        """Tell a value; where that cannot be done it is a reason that begins with `what`."""
        try:
            return self._tell(value)
        except NoNameError as error:
            self.reasons.append(f"{what}: {error}")
            return None
        except RecursionError:
            self.reasons.append(f"{what}: it is nested too deeply")
            return None

    def _tell(self, value: Any) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise NoNameError(f"it holds more than {MAX_VALUES} values")
        if type(value) in PLAIN:
            return self._plain(value)
        if id(value) in self._path:
            return {"<up>": len(self._path) - self._path.index(id(value))}
        if len(self._path) >= MAX_DEPTH:
            raise NoNameError("it is nested too deeply")
        self._path.append(id(value))
        try:
            return self._compound(value)
        finally:
            self._path.pop()

    def _plain(self, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return {"<float>": str(value)}
        if isinstance(value, str):
            return self._text(value)
        return value

    def _text(self, text: str) -> Any:
        """A text; of a path into a local module's folder only the part below it, and of a data file what it holds."""
        if text in self.files:
            return {"<file>": self.files[text]}
        if text.startswith(FILE_MODULE):  # __name__, such as of a logger
            return {"<module>": text[len(FILE_MODULE) :].partition("_")[2]}
        if len(text) > 4096 or "\0" in text or not (os.path.splitext(text)[1] in DATA or os.path.isabs(text)):
            return text
        place: Any = text
        for number, folder in enumerate(self.folders):
            whole = Path(text).resolve()
            if os.path.isabs(text) and whole.is_relative_to(folder):
                place = {"<folder>": number, "<below>": whole.relative_to(folder).as_posix()}
                break
        if os.path.splitext(text)[1] in DATA and os.path.isfile(text):
            return {"<text>": place, "<sha256>": digest(Path(text))}
        return place

    def _compound(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, enum.Enum):
            return {"<enum>": self._class(kind), "<name>": value.name}
        if isinstance(value, PurePath):
            return {f"<{kind.__name__}>": self._text(str(value))}
        if kind in (list, tuple):
            return [self._tell(one) for one in value]
        if kind is dict or kind.__name__ == "mappingproxy":
            return self._mapping(value)
        if kind in (set, frozenset):
            return {"<set>": sorted((self._tell(one) for one in value), key=canonical)}
        if kind in (bytes, bytearray):
            return {f"<{kind.__name__}>": hashlib.sha256(value).hexdigest()}
        if kind is complex:
            return {"<complex>": [self._plain(value.real), self._plain(value.imag)]}
        if isinstance(value, ModuleType):
            self._local(value.__name__)
            return {"<module>": place_of(value.__name__)}
        if isinstance(value, type):
            return {"<class>": self._class(value)}
        if _is_array(value):
            return self._array(value)
        found = self._callable(value)
        return self._object(value) if found is None else found

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(type(key) is str and not key.startswith("<") for key in value):
            return {key: self._tell(one) for key, one in value.items()}
        pairs = [[self._tell(key), self._tell(one)] for key, one in value.items()]
        return {"<dict>": sorted(pairs, key=canonical)}

    def _array(self, value: Any) -> Any:
        """A tensor or numpy array by kind, shape and bytes; a number of numpy's as a number."""
        if type(value).__module__ == "numpy":
            if type(value).__name__ != "ndarray" and value.ndim == 0:
                return self._tell(value.item())
            if value.dtype.hasobject:
                return {"<array>": [value.shape, self._tell(value.tolist())]}
            data = value.tobytes()
        else:
            import torch

            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise NoNameError(f"a tensor of layout {value.layout} on {value.device} cannot be told from others")
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().tobytes()
        kind, shape = f"{type(value).__name__} {value.dtype}", list(value.shape)
        return {"<array>": [kind, shape, hashlib.sha256(data).hexdigest()]}

    def _object(self, value: Any) -> Any:
        """Any other object, by what a copy of it would be made of; none is made."""
        kind = type(value)
        if value is os.environ or (kind.__module__, kind.__name__) == ("kv_gym.llm.frozen", "FrozenLLM"):
            return {"<named elsewhere>": kind.__name__}  # variables by their names, the model by every row
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # locks, open files, generators
            raise NoNameError(f"{kind.__name__} cannot be told from others of its kind") from error
        if isinstance(reduced, str):
            self._local(asked(value, "__module__") or kind.__module__)
            return {"<global>": reduced, "<of>": self._class(kind)}
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        told = [self._class(kind), self._tell(make), self._tell(arguments), self._tell(state)]
        told += [None if items is None else [self._tell(one) for one in items]]
        told += [None if pairs is None else [self._tell(list(pair)) for pair in pairs]]
        return {"<object>": told}


def short(told: Any) -> Any:
    """What was told, or its hash where that is long."""
    text = canonical(told)
    return told if len(text) <= MAX_TOLD else {"<sha256>": text_hash(text)}


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    return (torch is not None and isinstance(value, torch.Tensor)) or (
        numpy is not None and isinstance(value, numpy.ndarray | numpy.generic)
    )
