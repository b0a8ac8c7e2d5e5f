"""Errors that users can meet. Each message says what came, what is allowed and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line starts without pydantic
    from pydantic import ValidationError


class KVGymError(Exception):
    """Base of all errors that kv-gym raises on purpose."""


class ConfigError(KVGymError, ValueError):
    """An option is unknown or its value is not allowed."""


class ProblemFileError(ConfigError):
    """A file of problems is damaged, or a row of it cannot be read as a problem."""


class BudgetError(ConfigError):
    """The budget leaves nothing to decide."""


class UnknownNameError(KVGymError, ValueError):
    """A name (of a model, agent, problem, option ...) is not known."""


class UnknownOptionError(UnknownNameError, TypeError):
    """A setting does not exist: to Python, an unexpected keyword argument."""


class UnsupportedModelError(KVGymError):
    """The model's attention cannot be evicted slot by slot, or its files are damaged or do not belong together."""


class ReferenceFileError(KVGymError):
    """A stored reference generation is damaged or belongs to something else."""


class GradingError(KVGymError, RuntimeError):
    """The gold answer cannot be graded against, or the worker that compares answers cannot start."""


class UndecidedError(GradingError):
    """Whether an answer is right is not known: comparing took too long. It is no verdict and is never kept as one."""


class ScoreError(KVGymError, ValueError):
    """Keep scores have the wrong shape or are not numbers."""


class ActionError(KVGymError, ValueError):
    """An action is outside the action space."""


def unknown_name(
    kind: str, name: object, known: Iterable[str], fix: str = "", error: type[UnknownNameError] = UnknownNameError
) -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known one.

    Args:
        kind: What it should name, such as "agent", or "option of agent 'rkv'": the name goes before "of" or "in".
        name: What was given.
        known: All that there are.
        fix: What to do, a sentence.
        error: Its class.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    tail = f" {fix}" if fix else ""
    what, place, where = re.fullmatch(r"(.*?)(?:( of | in )(.*))?", kind, re.DOTALL).groups("")  # type: ignore[union-attr]
    return error(f"unknown {what} {name!r}{place}{where}.{hint} Known: {', '.join(names)}.{tail}")


def half_character(text: str) -> str:
    """What is wrong with a text that has half of a surrogate pair, which no tokenizer reads; "" if nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has half a character (surrogate U+{ord(text[error.start]):04X}) at place {error.start}"
    return ""


def first_complaint(error: ValidationError) -> str:
    """Where data is not as it should be and why, at most 300 characters: it may be a stranger's."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:100]
    return (f"{place}: {first['msg']}" if place else first["msg"])[:300]
