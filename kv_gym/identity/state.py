"""What objects, functions and classes hold while they are loaded, as JSON values.

A source tells what a class is when it is loaded; an object, a class or a module may be changed afterwards. So every
value that can be reached from an agent is told too: numbers and texts as they are, tensors by their bytes, functions by
where they stand in their source, with defaults and closures, and objects by what a copy of them would be made of.
"""

from __future__ import annotations

import abc
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from kv_gym.identity.codes import fingerprint, names_in, place_in_source
from kv_gym.identity.options import REMEMBERED
from kv_gym.identity.places import SUITE, folder_of, is_foreign, place_of, source_file, top_of
from kv_gym.identity.telling import NoNameError, Telling, short
from kv_gym.identity.values import asked, canonical, text_hash

COMPILED = ("_torchdynamo_orig_callable", "_torchdynamo_inline")
"""Where torch.compile and torch.jit.script keep the function that they were given."""
C_FUNCTIONS = (
    BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, MethodWrapperType, WrapperDescriptorType,
)  # fmt: skip


class State(Telling):
    """Tells what an object holds, and the code that it is made of.

    Args:
        thing: Whose values they are.
        files: Files that it says it reads, by their paths: these are told by what they hold, not by where they lie.

    Attributes:
        modules: Local modules that code is from.
        packages: Outermost names of the other ones.
        code: What classes and functions hold beyond what their sources say, by place.
        globals: Values of modules that functions look up, by place.
        reached: Local functions and methods that are used, `module:Class.method`.
    """

    def __init__(self, thing: Any, files: Mapping[str, str]) -> None:
        super().__init__(files)
        self.thing, self.kind = thing, type(thing)
        module = sys.modules.get(self.kind.__module__)
        file = source_file(module)
        self.own, self.beside = top_of(self.kind.__module__), (file.parent if file else Path.cwd())
        self.modules: dict[str, ModuleType] = {}
        self.packages: set[str] = set()
        self.code: dict[str, Any] = {}
        self.globals: dict[str, Any] = {}
        self.reached: set[str] = set()
        self._foreign: set[str] = set()
        self._known: dict[int, tuple[Any, str]] = {}  # classes, alive while their ids count
        self._functions: list[FunctionType] = []
        self._classes: list[tuple[type, str]] = []
        self._looked: set[tuple[str, frozenset[str]]] = set()
        self._local(self.kind.__module__)

    def attributes(self) -> dict[str, Any]:
        """Tell all attributes of the object, private ones too."""
        found = dict(getattr(self.thing, "__dict__", {}))
        slots = [
            name
            for kind in self.kind.__mro__
            for name, one in vars(kind).items()
            if isinstance(one, MemberDescriptorType)
        ]
        found |= {name: getattr(self.thing, name) for name in slots if hasattr(self.thing, name)}
        found.pop(REMEMBERED, None)
        self._path = [id(self.thing)]
        told = {name: short(self.told(value, f"attribute {name}")) for name, value in sorted(found.items())}
        self._path = []
        return told

    def follow(self) -> None:
        """Follow the code of the object's class and of all that was told, as far as it is local."""
        for kind in self.kind.__mro__:
            self._class(kind, always=True)
        while self._classes or self._functions:
            while self._functions:
                self._look_up(self._functions.pop(0))
            if self._classes:
                self._describe(*self._classes.pop(0))

    def parts(self) -> dict[str, Any]:
        """What code holds, as JSON values; names that only stand for other code are hashed together."""
        elsewhere = {"<function>", "<class>", "<module>", "<built in>", "<self>"}
        only_names = {
            place: told for place, told in self.globals.items() if isinstance(told, dict) and told.keys() <= elsewhere
        }
        values = {place: short(told) for place, told in self.globals.items() if place not in only_names}
        return {"code": self.code, "globals": values, "names": text_hash(canonical(only_names))}

    # --- Modules ---

    def _local(self, name: str) -> bool:
        """Whether a module is told by its source; of another one the version of its package counts."""
        if name in self.modules or name in self._foreign:
            return name in self.modules
        module = sys.modules.get(name)
        file = source_file(module)
        if (
            module is None
            or file is None
            or file.suffix != ".py"
            or (top_of(name) != self.own and is_foreign(name, file, self.beside))
        ):
            self.packages.add(top_of(name))
            self._foreign.add(name)
            return False
        self.modules[name] = module
        folder = folder_of(name, file)
        if folder not in self.folders:
            self.folders.append(folder)
        return True

    # --- Functions and classes ---

    def _callable(self, value: Any) -> Any:
        """A function, method or descriptor; None if it is something else."""
        compiled = next((one for name in COMPILED if (one := asked(value, name)) is not None), None)
        if isinstance(compiled, FunctionType) and compiled is not value:
            return {"<compiled>": self._function(compiled)}
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return {"<method>": [self._tell(value.__self__), self._tell(value.__func__)]}
        if isinstance(value, classmethod | staticmethod):
            return {f"<{type(value).__name__}>": self._tell(value.__func__)}
        if isinstance(value, property):
            return {"<property>": [self._tell(one) for one in (value.fget, value.fset, value.fdel)]}
        if isinstance(value, functools.cached_property):
            return {"<cached_property>": self._tell(value.func)}
        if isinstance(value, C_FUNCTIONS):
            owner = asked(value, "__self__") or asked(value, "__objclass__")
            bound = None if owner is None or isinstance(owner, ModuleType) else self._tell(owner)
            return {"<built in>": f"{asked(value, '__module__')}:{value.__qualname__}", "<self>": bound}
        wrapped = asked(value, "__wrapped__") if callable(value) else None  # such as functools.lru_cache makes
        if wrapped is not None:
            return {"<wraps>": [self._class(type(value)), self._tell(wrapped)]}
        return None

    def _function(self, function: FunctionType) -> Any:
        """Where a function stands, and what it holds; code that is in no file is told by what it does."""
        code, module = function.__code__, str(function.__globals__.get("__name__"))
        file = function.__globals__.get("__file__")
        local = self._local(module)
        place = f"{place_of(module)}:{self._place(function) if local else code.co_qualname}"
        if not local and code.co_filename != file:
            place += f"#{fingerprint(code)}"
        if local or file is None:
            self._functions.append(function)
        variables = zip(code.co_freevars, function.__closure__ or (), strict=True)
        held = {
            "defaults": list(function.__defaults__ or ()),
            "keywords": function.__kwdefaults__ or {},
            "closure": {name: cell.cell_contents for name, cell in variables if _filled(cell) and name != "__class__"},
            "attributes": {name: one for name, one in vars(function).items() if name != "__wrapped__"},
        }
        told = {name: self._tell(one) for name, one in held.items() if one}
        return {"<function>": place, **told} if told else {"<function>": place}

    def _place(self, function: FunctionType) -> str:
        code, file = function.__code__, str(function.__globals__.get("__file__"))
        if code.co_filename != file:
            return f"#{fingerprint(code)}"
        place = place_in_source(code, Path(file))
        if place is None:
            changed = f"{Path(file).name} was changed since it was loaded"
            if changed not in self.reasons:
                self.reasons.append(changed)
        return place or "changed"

    def _class(self, kind: type, always: bool = False) -> str:
        """A class's place; what a local one holds is told later, once, and so that of the object's own bases."""
        if id(kind) in self._known:
            return self._known[id(kind)][1]
        place = f"{place_of(kind.__module__)}:{kind.__qualname__}"
        local = self._local(kind.__module__)
        if not local and not (always and _is_somebodys(kind)):
            return place
        same = sum(name.partition("#")[0] == place for _, name in self._known.values())
        place = f"{place}#{same}" if same else place  # another class that the same function made
        self._known[id(kind)] = kind, place
        self._classes.append((kind, place))
        return place

    def _describe(self, kind: type, place: str) -> None:
        """Tell what a class holds, without the functions that its source gives it."""
        within = "<locals>" in kind.__qualname__
        held: dict[str, Any] = {}
        for name, value in sorted(vars(kind).items()):
            if not _counts(name, value):
                continue
            told = self._loaded(value, f"{place}.{name}", strict=within)
            if not _stands_at(told, f"{place_of(kind.__module__)}:{kind.__qualname__}.{name}"):
                held[name] = short(told)
        bases = [self._class(base) for base in kind.__bases__]
        if bases != ["builtins:object"]:
            held["<bases>"] = bases
        if type(kind) not in (type, abc.ABCMeta):
            held["<metaclass>"] = self._class(type(kind))
        if held:
            self.code[place] = held

    def _loaded(self, value: Any, what: str, strict: bool = False) -> Any:
        """Tell a value that a source made when it was loaded: what cannot be told is told by that source."""
        if strict:
            return self.told(value, what)
        try:
            return self._tell(value)
        except (NoNameError, RecursionError):
            return {"<of its source>": type(value).__qualname__}

    def _look_up(self, function: FunctionType) -> None:
        """Tell the values outside of a function that its code names."""
        names, space = names_in(function.__code__), function.__globals__
        module = str(space.get("__name__"))
        self.reached.add(f"{module}:{function.__code__.co_qualname.partition('.<locals>')[0]}")
        self._names(module, space, names, strict="__file__" not in space)
        for name in sorted(names):
            if name in sys.modules and self._local(name):  # imported inside the function
                self._names(name, vars(sys.modules[name]), names)

    def _names(self, module: str, space: Mapping[str, Any], names: frozenset[str], strict: bool = False) -> None:
        if (module, names) in self._looked:
            return
        self._looked.add((module, names))
        for name in sorted((names | {"__getattr__"}) & space.keys()):
            value, place = space[name], f"{place_of(module)}:{name}"
            if isinstance(value, ModuleType) and self._local(value.__name__):
                self._names(value.__name__, vars(value), names)
            if place not in self.globals and (name == "__getattr__" or not name.startswith("__")):
                self.globals[place] = None
                self.globals[place] = self._loaded(value, place, strict)


def _stands_at(told: Any, place: str) -> bool:
    """Whether what was told is the function or class of that place, and nothing more."""
    if not isinstance(told, dict) or len(told) != 1:
        return False
    [(sign, found)] = told.items()
    return sign in ("<function>", "<class>") and (found == place or str(found).startswith(f"{place}@"))


def _is_somebodys(kind: type) -> bool:
    top = top_of(kind.__module__)
    return top not in SUITE and top not in sys.stdlib_module_names and top != "builtins"


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None or True
    except ValueError:  # a variable that was not set yet
        return False


def _counts(name: str, value: Any) -> bool:
    """Whether something in a class is its author's: Python's own notes and caches are not."""
    if name.startswith("_abc_"):
        return False
    own = isinstance(value, FunctionType | classmethod | staticmethod | property)
    return own or not (name.startswith("__") and name.endswith("__"))
