"""Options as text: `KEY=VALUE` pairs, settings of an environment, agents with options of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from kv_gym.agents import AgentLike
    from kv_gym.bench.workers import Workers

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the environment; repeat for more."),
]
"""`--set` of the commands that play an environment; `parse_settings` reads it."""
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Play in so many processes of this machine, or of --ray's, each with a model (and a GPU) of its own. "
        "Needs Ray: pip install 'kv-gym[ray]'.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Play on a Ray cluster that runs: its address, or `auto`; with --workers."
    ),
]
ChunkSeconds = Annotated[
    float | None,
    typer.Option(help="With --workers: what a worker takes longer for has failed. Default: an hour."),
]
"""Who plays: `--workers`, `--ray` and `--chunk-seconds`; `parse_workers` reads them."""
SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?) ?(?:([KMGTkmgt])(i)?)?[Bb]?")
WHOLE = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')"""
QUOTED = re.compile(rf"(?<=[=\[{{,:])\s*{WHOLE}", re.DOTALL)
NAMED = re.compile(r"(?P<agent>.*\S)\s+as(?:\s+(?P<name>.*))?", re.DOTALL)
OWN_OPTIONS = {"budget": "--budget", "mode": "--mode", "n_problems": "--problems", "split": "--split"}


def parse_pairs(pairs: list[str], option: str = "--set ", env: bool = False) -> dict[str, Any]:
    """Read the `KEY=VALUE` pairs of an option; values are YAML.

    Args:
        pairs: As typed.
        option: What stands before them, for messages.
        env: Whether they are settings of an environment: of those, texts are taken as they stand.

    Raises:
        ConfigError: No `=`, or no YAML.
    """
    import yaml

    from kv_gym.bench.typed import read_setting, read_value

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option}{pair!r} has no value. Use {option}KEY=VALUE.")
        try:
            found[key] = read_setting(key, value) if env else read_value(value)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
            raise ConfigError(
                f"{option}{pair!r}: the value is not YAML. Use a number, true, null or a name."
            ) from error
    return found


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Read settings of an environment.

    Raises:
        ConfigError: As `parse_pairs`; or a key that has an option of its own.
    """
    found = parse_pairs(pairs, env=True)
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


def parse_shard(text: str) -> tuple[int, int]:
    """Read I/N.

    Raises:
        ConfigError: It is none.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, re.ASCII)
    if found is None:
        raise ConfigError(f"--shard {text!r} is no share of the episodes. Use I/N, such as 1/4 to 4/4.")
    return int(found[1]), int(found[2])


def parse_workers(n: int | None, address: str | None = None, chunk_seconds: float | None = None) -> Workers | None:
    """Who plays: workers, if so many or a cluster were named.

    Raises:
        ConfigError: A cluster or a time, and not how many workers.
    """
    if n is None:
        if address is not None:
            raise ConfigError("--ray ADDRESS wants --workers N: how many to start there, on a GPU one for each.")
        if chunk_seconds is not None:
            raise ConfigError("--chunk-seconds is a limit for --workers N. Add that, or drop it.")
        return None
    from kv_gym.bench.workers import Workers

    return Workers(n, address) if chunk_seconds is None else Workers(n, address, chunk_seconds=chunk_seconds)


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
    """Read NAME[,KEY=VALUE...]; commas inside a value's brackets or quotes are its own.

    Raises:
        ConfigError: As `parse_pairs`.
    """
    name, *pairs = _pieces(text)
    return name, parse_pairs(pairs, "--agent NAME,")


def split_name(text: str) -> tuple[str, str | None]:
    """Cut `rkv,lam=0.5 as mine` into the agent and what it shall be called; None where nothing says so.

    An ` as ` inside a value's brackets or quotes, or in the path of a file, is its own.

    Raises:
        ConfigError: No name stands behind `as`.
    """
    found = NAMED.fullmatch(text)
    if found is None or ".py:" in (found["name"] or "") or _is_open(_pieces(found["agent"])[-1]):
        return text, None
    if not (found["name"] or "").strip():
        raise ConfigError(f"--agent {text!r}: no name stands behind `as`. Use --agent 'rkv,lam=0.5 as mine'.")
    return found["agent"], found["name"].strip()


def _pieces(text: str) -> list[str]:
    """A name and its KEY=VALUE pairs, as typed."""
    name, *pieces = text.split(",")
    pairs: list[str] = []
    for piece in pieces:
        if pairs and _is_open(pairs[-1]):
            pairs[-1] += f",{piece}"
        else:
            pairs.append(piece)
    return [name, *pairs]


def _is_open(pair: str) -> bool:
    """Whether a pair opens a quote, a bracket or a brace and does not close it."""
    value = QUOTED.sub("", pair).partition("=")[2].lstrip()
    return value[:1] in ('"', "'") or sum(map(value.count, "[{")) > sum(map(value.count, "]}"))


def build_agent(text: str) -> AgentLike:
    """Build an agent from what `--agent` takes.

    Raises:
        KVGymError: As `load_agent`, `parse_agent`, `split_name` and `rename`.
    """
    from kv_gym.agents import load_agent, rename
    from kv_gym.bench.guard import building

    typed, other = split_name(text)
    name, options = parse_agent(typed)
    with building(f"agent {text!r}"):
        agent = load_agent(name, **options)
        return agent if other is None else rename(agent, other)
