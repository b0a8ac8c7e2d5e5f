"""Values as JSON, and the one text of each."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

MAX_VALUE_CHARS = 60  # of a setting in a label; longer ones are cut and hashed


class NotJSON(ValueError):
    """A value that no JSON text stands for."""


def json_value(value: Any) -> Any:
    """Turn a value into what JSON knows; numpy's numbers are numbers, tuples are lists.

    Raises:
        NotJSON: It is something else, or a number that is not finite.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
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


def asked(value: Any, name: str) -> Any:
    """An attribute of somebody else's object; None without it, and where asking for it raises, whatever that is."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(json_value(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def text_hash(text: str) -> str:
    """SHA-256 of a text; lone surrogates are told apart too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def shown(value: Any) -> str:
    """A value in a label."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}...{text_hash(text)[:8]}"
