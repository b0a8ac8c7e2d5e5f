"""Where modules lie: beside somebody's file, in an installed package, in Python, in the suite."""

from __future__ import annotations

import functools
import hashlib
import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

SUITE = {
    "kv_gym", "torch", "transformers", "numpy", "gymnasium", "safetensors", "tokenizers", "stable_baselines3",
    "pydantic",
}  # fmt: skip
FILE_MODULE = "kv_gym_agent_file_"
"""Starts the names of modules that were loaded from a file that was given by its path."""


def source_file(module: ModuleType | None) -> Path | None:
    """The file that a module was loaded from, if it is there."""
    file = Path(getattr(module, "__file__", None) or "")
    return file if file.is_file() else None


def place_of(name: str) -> str:
    """A module's name; of one that was loaded by its path, the name of the file: no folder is in it."""
    module = sys.modules.get(name)
    return Path(str(module.__file__)).name if module is not None and name.startswith(FILE_MODULE) else name


def top_of(name: str) -> str:
    """The outermost package of a module."""
    return name.partition(".")[0]


def folder_of(name: str, file: Path) -> Path:
    """The folder that a module is imported from: the one that its outermost package or file lies in."""
    depth = 0 if name.startswith(FILE_MODULE) else name.count(".") + (file.name == "__init__.py")
    return file.resolve().parents[depth]


def find(name: str) -> Path | None:
    """Source file that an import gives, whether it was imported yet or not; nothing is imported to find out."""
    module = sys.modules.get(name)
    if module is not None:
        return source_file(module)
    spec = _spec(name)
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _spec(name: str) -> ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    path = None
    if parent:
        outer = getattr(sys.modules.get(parent), "__spec__", None) or _spec(parent)
        if outer is None or outer.submodule_search_locations is None:
            return None
        path = list(outer.submodule_search_locations)
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except KeyError:  # a folder without __init__.py in a package that is not imported, which importlib wants loaded
            return _namespace(name, path or [])
        if spec is not None:
            return spec
    return None


def _namespace(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """The package that is the folders of that name."""
    spec = ModuleSpec(name, None, is_package=True)
    folders = [str(folder) for place in path if (folder := Path(place) / name.rpartition(".")[2]).is_dir()]
    spec.submodule_search_locations = folders
    return spec if folders else None


def is_foreign(name: str, file: Path, beside: Path) -> bool:
    """Whether a module is Python's, the suite's or an installed package's, and so is named by a version.

    Args:
        name: Its name.
        file: Where it was found. A helper may have the name of a module of Python's: its place decides.
        beside: Folder of the agent's file.
    """
    if top_of(name) == "kv_gym" or is_installed(file) or is_python(file):
        return True
    return top_of(name) in SUITE and not file.resolve().is_relative_to(beside.resolve())


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    return tuple(Path(folder).resolve() for folder in {*folders, *site.getsitepackages()})


def is_installed(file: Path) -> bool:
    """Whether a file is part of an installed package, other than an editable one."""
    found = file.resolve()
    return any(found.is_relative_to(folder) for folder in _installed_folders())


def is_python(file: Path) -> bool:
    """Whether a file comes with Python itself."""
    folders = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    return any(file.resolve().is_relative_to(folder) for folder in folders) and not is_installed(file)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def versions_of(top: str) -> dict[str, str]:
    """Versions of the distributions that a package comes from, by their names."""
    return {name: version(name) for name in _distributions().get(top, ())}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
