"""The sources that somebody's module is made of: its local modules, followed to the end, and what they read."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from kv_gym.identity.places import (
    SUITE,
    digest,
    find,
    folder_of,
    is_foreign,
    place_of,
    source_file,
    top_of,
    versions_of,
)
from kv_gym.identity.scan import Opaque, Scan, scan
from kv_gym.identity.values import text_hash

MAX_FILES = 1000  # of a package that imports its modules when they are asked for, or data files that a pattern names


@dataclass
class Sources:
    """What modules are made of.

    Attributes:
        modules: Local modules, by name, the ones asked for first. Local is what is no part of Python, the suite or an
            installed package, and what belongs to the same package as the module asked for.
        packages: Installed packages that they import: outermost names.
        data: Data files that their sources name, by module and name.
        variables: Environment variables that they read.
        opaque: What cannot be followed, with the module that does it.
    """

    modules: dict[str, Path] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    data: dict[str, Path] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    opaque: list[tuple[str, Opaque]] = field(default_factory=list)

    def reasons(self, reached: set[str]) -> list[str]:
        """What cannot be followed, in modules and in functions that are reached.

        Args:
            reached: Functions and methods that are used, `module:Class.method`. Other ones of a module that is loaded
                do not decide, such as those of a script around a class.
        """
        return [
            f"{place_of(module)} {one.what}"
            for module, one in self.opaque
            if not one.function or f"{module}:{one.function}" in reached or module not in sys.modules
        ]

    def parts(self) -> dict[str, Any]:
        """What decides, as JSON values; contents by their hashes, and variables too: they may be secret."""
        values = {name: os.environ.get(name) for name in sorted(self.variables)}
        return {
            "modules": sorted([place_of(name), digest(path)] for name, path in self.modules.items()),
            "packages": {name: found for top in self.packages for name, found in versions_of(top).items()},
            "data": {name: digest(path) for name, path in self.data.items()},
            "variables": {name: None if value is None else text_hash(value) for name, value in values.items()},
        }


def sources_of(modules: Iterable[ModuleType], packages: Iterable[str] = ()) -> Sources:
    """Follow the imports of modules, also those inside functions.

    Args:
        modules: Where to begin; the first says which package is local and what lies beside it.
        packages: Outermost names of others that are known to be used.
    """
    begin = {module.__name__: file for module in modules if (file := source_file(module)) is not None}
    found = Sources(modules=dict(begin), packages=set(packages))
    first = next(iter(begin), "")
    own, beside = top_of(first), begin[first].parent if begin else Path()
    waiting, seen = deque(begin.items()), set(begin)
    while waiting:
        importer, file = waiting.popleft()
        read = scan(importer, file)
        _note(found, importer, file, read)
        names = [*read.imports, *_asked_for_later(importer, file, read)]
        for name in _with_parents(names):
            if name in seen:
                continue
            seen.add(name)
            source = find(name)
            if source is not None and (top_of(name) == own or not is_foreign(name, source, beside)):
                found.modules[name] = source
                waiting.append((name, source))
            else:
                found.packages.add(top_of(name))
    found.packages -= SUITE | {top_of(name) for name in found.modules}
    return found


def _note(found: Sources, importer: str, file: Path, read: Scan) -> None:
    """Write down what a source reads besides modules."""
    place = place_of(importer)
    found.variables |= read.variables
    if not _is_lazy(file, read):
        found.opaque += [(importer, one) for one in read.opaque]
    for name in sorted(read.data):
        paths = sorted(_matching(file.resolve().parent, name) or _matching(Path.cwd(), name))
        if len(paths) > MAX_FILES:
            found.opaque.append((importer, Opaque(f"names more than {MAX_FILES} files by {name!r}", "")))
        else:
            found.data |= {f"{place}:{key}": path for key, path in paths}


def _matching(folder: Path, name: str) -> list[tuple[str, Path]]:
    """Files that a name or pattern in a source stands for, by what to call them; a folder at a time, none below it."""
    if any(sign in name for sign in "*?["):
        folder = (folder / name).parent
        paths = list(folder.glob(Path(name).name)) if folder.is_dir() else []
    else:
        paths = [folder / name]
    return [(path.name if path.name != Path(name).name else name, path) for path in paths if path.is_file()]


def _is_lazy(file: Path, read: Scan) -> bool:
    return file.name == "__init__.py" and (read.lazy or any("imports a module" in one.what for one in read.opaque))


def _asked_for_later(importer: str, file: Path, read: Scan) -> Iterator[str]:
    """All modules of a package that imports them when they are asked for."""
    if _is_lazy(file, read):
        for number, path in enumerate(sorted(file.parent.rglob("*.py"))):
            if number >= MAX_FILES:
                break
            parts = path.relative_to(file.parent).with_suffix("").parts
            yield ".".join([importer, *parts]).removesuffix(".__init__")


def _with_parents(names: Iterable[str]) -> list[str]:
    """Modules, each once, and the packages around them, whose `__init__` runs first."""
    split = [name.split(".") for name in names]
    return list(dict.fromkeys(".".join(parts[:end]) for parts in split for end in range(1, len(parts) + 1)))


def mixed_up(module: ModuleType) -> tuple[str, Path, Path] | None:
    """A module, however deep, that lies beside this one's file while another file of the same name is imported.

    Returns:
        (name, the file beside it, the file that is imported), or None.
    """
    file = source_file(module)
    assert file is not None
    folder = folder_of(module.__name__, file)
    waiting, seen = deque([(module.__name__, file)]), {module.__name__}
    while waiting:
        read = scan(*waiting[0])
        names = [*read.imports, *_asked_for_later(*waiting.popleft(), read)]
        for name in _with_parents(names):
            here = _beside(folder, name)
            if here is None or name in seen:
                continue
            seen.add(name)
            there = find(name)
            if there is not None and there.resolve() != here.resolve():
                return name, here, there
            waiting.append((name, here))
    return None


def _beside(folder: Path, name: str) -> Path | None:
    place = folder.joinpath(*name.split("."))
    return next((path for path in (place / "__init__.py", place.with_name(f"{place.name}.py")) if path.is_file()), None)
