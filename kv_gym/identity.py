"""What makes an object of somebody's class what it is: a row may be reused only for the same agent.

An identity holds the class, the options it was built with, its plain attributes, the hash of its file and of every
local module that it imports, the versions of installed packages that it imports, and the hashes of files that it reads
(weights). What cannot be named, such as a class typed into a notebook or an option that is no JSON, has no identity:
`unnamed` says why, and its hash is another one each time.

The suite's own packages are left out: kv_gym is named by environment ids, which are promises, and the libraries that
compute by `kv_gym.bench.provenance.computation`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import math
import numbers
import site
import sys
import sysconfig
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

SUITE = {
    "kv_gym", "torch", "transformers", "numpy", "gymnasium", "safetensors", "tokenizers", "stable_baselines3",
    "pydantic",
}  # fmt: skip
MAX_VALUE_CHARS = 60  # of a setting in a label; longer ones are cut and hashed
_OPTIONS = "_kv_gym_options"
FILE_MODULE = "kv_gym_agent_file_"
"""Starts the names of modules that were loaded from a file that was given by its path."""


class NotJSON(ValueError):
    """A value that no JSON text stands for."""


@dataclass(frozen=True)
class Identity:
    """Who somebody is.

    Attributes:
        where: Module (or file name) and class, with its settings: `streaming:Streaming(n_sink=4)`. For people.
        parts: Everything that decides, as JSON values.
        unnamed: Why it cannot be named; "" if it can.
        sha256: Hash of `parts`; of an unnamed one, never the same twice.
    """

    where: str
    parts: dict[str, Any]
    unnamed: str
    sha256: str


def files_of(thing: Any) -> list[Path]:
    """Files that an object of somebody's class says it reads: its method `files()`, if it has one."""
    return [Path(path) for path in getattr(thing, "files", list)()]


def identity_of(thing: Any) -> Identity:
    """Say who an object of somebody's class is."""
    kind = type(thing)
    module = sys.modules.get(kind.__module__)
    reasons: list[str] = []
    files = files_of(thing)
    attributes, options = _attributes(thing), _options(thing, reasons)
    options |= {name: Path(value).name for name, value in options.items() if value in map(str, files)}
    parts: dict[str, Any] = {
        "class": f"{_place(module, kind)}:{kind.__qualname__}",
        "options": options,
        "attributes": attributes,
        "closures": _closures(kind, reasons),
        "files": {path.name: _hash(path) for path in files},
    }
    file = _source_file(module)
    if file is None:
        reasons.append("its class is in no file")
    else:
        assert module is not None
        local, packages = imported_by(module)
        parts |= {"file": _hash(file), "modules": local, "packages": packages}
    settings = {name: value for name, value in (options | attributes).items() if value is not None}
    label = ", ".join(f"{name}={_shown(value)}" for name, value in sorted(settings.items()))
    digest = hashlib.sha256(canonical(parts).encode()).hexdigest()
    return Identity(
        where=parts["class"] + (f"({label})" if label else ""),
        parts=parts,
        unnamed="; ".join(reasons),
        sha256=f"unnamed-{uuid.uuid4().hex}" if reasons else digest,
    )


# --- Values ------------------------------------------------------------------------------------------------------


def json_value(value: Any) -> Any:
    """Turn a value into what JSON knows; numpy's numbers are numbers, tuples are lists.

    Raises:
        NotJSON: It is something else, or a number that is not finite.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "item") and type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return json_value(value.item())
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: json_value(one) for key, one in value.items()}
    raise NotJSON(f"{type(value).__name__} is no JSON")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(json_value(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) <= MAX_VALUE_CHARS:
        return text
    return f"{text[:MAX_VALUE_CHARS]}...{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# --- Options -----------------------------------------------------------------------------------------------------


def remember_options(thing: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Write down what an object is being built with; the first to say so is right: an `__init__` may call others."""
    if hasattr(thing, _OPTIONS):
        return
    if type(thing).__init__ is object.__init__:
        given: list[tuple[str, Any]] = []
    else:
        try:
            bound = inspect.signature(type(thing).__init__).bind(thing, *args, **kwargs)
        except (TypeError, ValueError):  # a copy, or arguments that __init__ will refuse
            return
        bound.apply_defaults()
        _, *given = bound.arguments.items()
    options: dict[str, Any] = {}
    for name, value in given:
        variable = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        options |= value if variable else {name: value}
    with contextlib.suppress(AttributeError):  # a class with __slots__
        object.__setattr__(thing, _OPTIONS, options)


def remembering(init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` that writes its options down."""

    @functools.wraps(init)
    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        remember_options(self, args, kwargs)
        init(self, *args, **kwargs)

    return built


def _options(thing: Any, reasons: list[str]) -> dict[str, Any]:
    """What an object was built with; what is no JSON is a reason not to name it."""
    given = getattr(thing, _OPTIONS, None)
    if given is None and dataclasses.is_dataclass(thing):
        given = {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing)}
    if given is None:
        if inspect.signature(type(thing)).parameters:
            reasons.append("what it was built with is not known (make its class a subclass of kv_agents.base.Agent)")
        return {}
    found = {}
    for name, value in given.items():
        try:
            found[name] = json_value(value)
        except NotJSON as error:
            reasons.append(f"option {name}: {error}")
    return found


def _attributes(thing: Any) -> dict[str, Any]:
    """Public attributes that JSON knows: options that were changed after the object was built are among them."""
    found = {}
    for name, value in getattr(thing, "__dict__", {}).items():
        if not name.startswith("_"):
            try:
                found[name] = json_value(value)
            except NotJSON:
                continue
    return found


def _closures(kind: type, reasons: list[str]) -> dict[str, Any]:
    """Values around a class that was made inside a function."""
    if "<locals>" not in kind.__qualname__:
        return {}
    found = {}
    file = _source_file(sys.modules.get(kind.__module__))
    for name, function in inspect.getmembers(kind, inspect.isfunction):
        function = inspect.unwrap(function)
        if file is None or function.__code__.co_filename != str(file):
            continue  # written by a decorator
        for variable, value in inspect.getclosurevars(function).nonlocals.items():
            try:
                found[f"{name}.{variable}"] = json_value(value)
            except NotJSON:
                if variable != "__class__":
                    reasons.append(f"{name}() uses {variable} of the function around its class")
    return found


# --- Sources -----------------------------------------------------------------------------------------------------


def _place(module: ModuleType | None, kind: type) -> str:
    """Module of a class; of one that was loaded by its path, the name of the file."""
    return Path(str(module.__file__)).name if kind.__module__.startswith(FILE_MODULE) else kind.__module__  # type: ignore[union-attr]


def _source_file(module: ModuleType | None) -> Path | None:
    file = Path(getattr(module, "__file__", None) or "")
    return file if file.is_file() else None


def imported_by(module: ModuleType) -> tuple[dict[str, str], dict[str, str]]:
    """Follow the imports of a module, also those inside functions.

    Returns:
        (hash of each local module, version of each installed package), by name. Local is what is no part of an
        installed package, and what belongs to the same package as the module itself.
    """
    own = module.__name__.partition(".")[0]
    local: dict[str, str] = {}
    packages: dict[str, str] = {}
    waiting, seen = deque([(module.__name__, Path(str(module.__file__)))]), {module.__name__}
    while waiting:
        importer, file = waiting.popleft()
        for name in _imported(importer, file):
            top = name.partition(".")[0]
            if name in seen or top in SUITE or top in sys.stdlib_module_names:
                continue
            seen.add(name)
            source = _find(name)
            if source is not None and (top == own or not is_installed(source)):
                local[name] = _hash(source)
                waiting.append((name, source))
            elif source is not None or top in sys.modules:
                packages |= {distribution: version(distribution) for distribution in _distributions().get(top, ())}
    return local, packages


def imports_of(module: ModuleType) -> list[str]:
    """Names of modules that a module may import itself: of `from a import b`, both a and a.b."""
    return list(_imported(module.__name__, Path(str(module.__file__))))


def _imported(importer: str, file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _find(name: str) -> Path | None:
    """Source file of a module, whether it is imported yet or not."""
    module = sys.modules.get(name)
    if module is not None:
        return _source_file(module)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):  # a.b where b is no module of a
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    return tuple(Path(folder).resolve() for folder in {*folders, *site.getsitepackages()})


def is_installed(file: Path) -> bool:
    """Whether a file is part of an installed package, other than an editable one."""
    found = file.resolve()
    return any(found.is_relative_to(folder) for folder in _installed_folders())


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
