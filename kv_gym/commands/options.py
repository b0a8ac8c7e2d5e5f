"""Options as text: `KEY=VALUE` pairs, settings of an environment, agents with options of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from kv_gym.agents import AgentLike

EXPONENT = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")
SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?) ?(?:([KMGTkmgt])(i)?)?[Bb]?")
OWN_OPTIONS = {"budget": "--budget", "mode": "--mode", "n_problems": "--problems", "split": "--split"}


def parse_pairs(pairs: list[str], option: str = "--set ") -> dict[str, Any]:
    """Read the `KEY=VALUE` pairs of an option; values are YAML.

    Raises:
        ConfigError: No `=`, or no YAML.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option}{pair!r} has no value. Use {option}KEY=VALUE.")
        try:
            found[key] = _number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{option}{pair!r}: the value is not YAML. Use a number, true, null or a name."
            ) from error
    return found


def _number(value: Any) -> Any:
    """Read 1e-3, which YAML takes for a word, as a number."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Read settings of an environment.

    Raises:
        ConfigError: As `parse_pairs`; or a key that has an option of its own.
    """
    found = parse_pairs(pairs)
    for key, value in found.items():
        if key in OWN_OPTIONS:
            pair = f"{key}={value}"
            raise ConfigError(f"--set {pair!r}: {key} has an option of its own. Use {OWN_OPTIONS[key]} {value}.")
        if key == "shadow":
            raise ConfigError("--set shadow: a full cache reads along in replay with --missed-attention. Use that.")
    return found


def parse_width(text: str) -> int | Literal["auto"]:
    """Read a number of rows, or `auto`.

    Raises:
        ConfigError: Neither.
    """
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"--width {text!r} is no number of rows. Use a whole number from 1 on, or auto.")
    return int(text)


def parse_bytes(text: str) -> int:
    """Read a size such as 80GiB, 24GB or 8e9.

    Raises:
        ConfigError: It is none.
    """
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--device-memory {text!r} is no size. Use a number with a unit, such as 80GiB or 24GB.")
    number, prefix, binary = found.groups()
    power = " KMGT".index((prefix or " ").upper())
    return int(float(number) * (1024 if binary else 1000) ** power)


def parse_agent(text: str) -> tuple[str, dict[str, Any]]:
    """Read NAME[,KEY=VALUE...]; commas inside a value's brackets are its own.

    Raises:
        ConfigError: As `parse_pairs`.
    """
    name, *pieces = text.split(",")
    pairs: list[str] = []
    for piece in pieces:
        if pairs and _open_brackets(pairs[-1]) > 0:
            pairs[-1] += f",{piece}"
        else:
            pairs.append(piece)
    return name, parse_pairs(pairs, "--agent NAME,")


def _open_brackets(text: str) -> int:
    """Brackets and braces that a text opens and does not close."""
    return sum(text.count(char) for char in "[{") - sum(text.count(char) for char in "]}")


def build_agent(text: str) -> AgentLike:
    """Build an agent from what `--agent` takes.

    Raises:
        KVGymError: As `load_agent` and `parse_agent`.
    """
    from kv_gym.agents import load_agent
    from kv_gym.bench.guard import building

    name, options = parse_agent(text)
    with building(f"agent {text!r}"):
        return load_agent(name, **options)
