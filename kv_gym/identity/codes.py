"""Code that is loaded, and where in a source it stands: a source may be edited after it was loaded."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

from kv_gym.identity.values import text_hash


def inside(code: CodeType) -> Iterator[CodeType]:
    """A code object and all that are made in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from inside(constant)


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Names that a function looks up outside of itself, and those of attributes."""
    return frozenset(name for each in inside(code) for name in each.co_names)


def place_in_source(code: CodeType, file: Path) -> str | None:
    """Where in a file the code stands, `Mine.score@12`; None if that file says something else now."""
    try:
        text = file.read_bytes()
    except OSError:
        return None
    return _places(file, text).get(code)


@functools.lru_cache(maxsize=64)
def _places(file: Path, text: bytes) -> dict[CodeType, str]:
    try:
        whole = compile(text, str(file), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[CodeType, str] = {}
    many: Counter[str] = Counter()
    for code in inside(whole):
        place = f"{code.co_qualname}@{code.co_firstlineno}"
        many[place] += 1
        found.setdefault(code, place if many[place] == 1 else f"{place}.{many[place]}")  # two lambdas in a line
    return found


def fingerprint(code: CodeType) -> str:
    """Hash of what code does, for code that stands in no file."""
    return text_hash(repr(_told(code)))


def _told(code: CodeType) -> tuple[object, ...]:
    constants = [_told(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts]
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_qualname, code.co_code.hex(), code.co_exceptiontable.hex(), *counts, *names, *constants


def _constant(value: object) -> object:
    return sorted(map(repr, value)) if isinstance(value, frozenset) else (type(value).__name__, value)
