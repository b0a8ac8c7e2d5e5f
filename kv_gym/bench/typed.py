"""Values as they are typed behind `KEY=`, read and written: what is written is read back unchanged."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import yaml

from kv_gym.config import EnvConfig

EXPONENT = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")
QUOTES = ('"', "'")
NONE = ("null", "Null", "NULL", "~")


def read_value(text: str) -> Any:
    """Read YAML; 1e-3, which YAML takes for a word, is a number.

    Raises:
        YAMLError: It is none.
    """
    value = yaml.safe_load(text)
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(text.strip()) else value


def read_setting(name: str, text: str) -> Any:
    """Read a setting of an environment: YAML, or the text as it stands where the setting is one.

    YAML would cut an instruction at ` #`, refuse one with `: ` in it, and take `on` for true. Quoted YAML stays
    possible for texts, `null` where a setting may be None, and a list where it may be one.

    Raises:
        YAMLError: The setting is no text, and this is no YAML.
    """
    field = EnvConfig.model_fields.get(name)
    kinds = _kinds(field.annotation) if field is not None else []
    if any(text in get_args(kind) for kind in kinds if get_origin(kind) is Literal):
        return text
    if str not in kinds:
        return read_value(text)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
        return text
    quoted = isinstance(value, str) and len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES
    none = text.strip() in NONE and type(None) in kinds
    listed = isinstance(value, list) and text.startswith("[") and any(get_origin(kind) is tuple for kind in kinds)
    return value if quoted or none or listed else text


def _kinds(annotation: Any) -> list[Any]:
    """The types of `str | None`, or the only one."""
    found = get_args(annotation)
    return [annotation] if not found or get_origin(annotation) in (Literal, dict, tuple) else list(found)


def typed_value(value: Any) -> str:
    """Write a value as `read_value` reads it; a text with a comma, or a bracket, is quoted for `--agent`."""
    if isinstance(value, str) and not re.search(r"[,\[\]{}\n]", value) and _reads_back(value):
        return value
    return _quoted(value) if isinstance(value, str) else _flow(value)


def typed_setting(name: str, value: Any) -> str:
    """Write a setting as `read_setting` reads it."""
    if not isinstance(value, str):
        return _flow(value)
    return value if read_setting(name, value) == value else _quoted(value)


def _reads_back(text: str) -> bool:
    try:
        return bool(read_value(text) == text)
    except (yaml.YAMLError, ValueError):
        return False


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True).removesuffix("\n")


def _flow(value: Any) -> str:
    found = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return found.removesuffix("\n").removesuffix("\n...")
