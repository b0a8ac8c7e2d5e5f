"""What an object was built with, written down when it is built."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

REMEMBERED = "_kv_gym_options"


def remember_options(thing: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Write down what an object is being built with; the first to say so is right: an `__init__` may call others."""
    if hasattr(thing, REMEMBERED):
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
        object.__setattr__(thing, REMEMBERED, options)


def remembering(init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` that writes its options down."""

    @functools.wraps(init)
    def built(self: Any, *args: Any, **kwargs: Any) -> None:
        remember_options(self, args, kwargs)
        init(self, *args, **kwargs)

    return built


def options_of(thing: Any) -> dict[str, Any] | None:
    """What an object was built with; None where nobody knows."""
    given: dict[str, Any] | None = getattr(thing, REMEMBERED, None)
    if given is None and dataclasses.is_dataclass(thing):
        given = {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing)}
    if given is None and not inspect.signature(type(thing)).parameters:
        given = {}
    return given
