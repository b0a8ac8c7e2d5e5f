"""What makes an object of somebody's class what it is: a row may be reused only for the same agent.

An identity holds the class, the options it was built with, all its attributes (tensors by their bytes), the hash of its
file and of every local module that it imports, what those hold while they are loaded where it is used (constants,
class attributes, defaults, closures), the versions of installed packages that they import, data files that they name,
environment variables that they read, and the hashes of files that it says it reads (weights). What cannot be named,
such as a class typed into a notebook, a lock among the options, or a source that was edited after it was loaded, has no
identity: `unnamed` says why, and its hash is another one each time.

The suite's own packages are left out: kv_gym is named by environment ids, which are promises, and the libraries that
compute by `kv_gym.bench.provenance.computation`. Folders of this machine are left out of paths that lead to what lies
beside a local module.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_gym.errors import ConfigError
from kv_gym.identity.options import options_of, remember_options, remembering
from kv_gym.identity.places import FILE_MODULE, digest, is_installed, place_of, source_file
from kv_gym.identity.sources import mixed_up, sources_of
from kv_gym.identity.state import State
from kv_gym.identity.values import NotJSON, canonical, json_value, shown, text_hash

__all__ = [
    "FILE_MODULE", "Identity", "NotJSON", "canonical", "files_of", "identity_of", "is_installed", "json_value",
    "mixed_up", "remember_options", "remembering", "sources_of",
]  # fmt: skip

MOST_REASONS = 5


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
    """Say who an object of somebody's class is.

    Raises:
        ConfigError: `files()` names something that is no file.
    """
    kind = type(thing)
    module = sys.modules.get(kind.__module__)
    files = dict(zip(_keys(files_of(thing)), files_of(thing), strict=True))
    state = State(thing, {str(path): key for key, path in files.items()})
    options, attributes = _options(thing, state), state.attributes()
    state.follow()
    parts: dict[str, Any] = {
        "class": f"{place_of(kind.__module__)}:{kind.__qualname__}",
        "options": options,
        "attributes": attributes,
        "files": {key: _digest(thing, path) for key, path in files.items()},
    }
    reasons = list(dict.fromkeys(state.reasons))
    if module is None or source_file(module) is None:
        reasons.append("its class is in no file")
    else:
        sources = sources_of([module, *state.modules.values()], state.packages)
        parts |= state.parts() | sources.parts()
        reasons += sources.reasons(state.reached)
    return Identity(
        where=parts["class"] + _label(thing, options),
        parts=parts,
        unnamed=_listed(reasons),
        sha256=f"unnamed-{uuid.uuid4().hex}" if reasons else text_hash(canonical(parts)),
    )


def _listed(reasons: Sequence[str]) -> str:
    """The first reasons, and how many more: one agent that imports a large program may have hundreds."""
    more = len(reasons) - MOST_REASONS
    return "; ".join([*reasons[:MOST_REASONS], *([f"and {more} more"] if more > 0 else [])])


def _options(thing: Any, state: State) -> dict[str, Any]:
    given = options_of(thing)
    if given is None:
        state.reasons.append("what it was built with is not known (make its class a subclass of kv_agents.base.Agent)")
    told = {name: state.told(value, f"option {name}") for name, value in (given or {}).items()}
    return {name: one["<file>"] if _is_file(one) else one for name, one in told.items()}


def _label(thing: Any, options: dict[str, Any]) -> str:
    """Settings in brackets: options, and public attributes that are JSON, as they are now."""
    settings = dict(options)
    for name, value in getattr(thing, "__dict__", {}).items():
        if not name.startswith("_"):
            try:
                settings[name] = json_value(value)
            except (NotJSON, RecursionError):
                continue
    label = ", ".join(f"{name}={shown(value)}" for name, value in sorted(settings.items()) if value is not None)
    return f"({label})" if label else ""


def _is_file(told: Any) -> bool:
    return isinstance(told, dict) and told.keys() == {"<file>"}


def _keys(paths: Sequence[Path]) -> list[str]:
    """Names of files, with as many of the folders around them as tell them apart."""
    whole = [path.absolute() for path in paths]
    for depth in range(1, max([len(path.parts) for path in whole], default=1) + 1):
        keys = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(keys)) == len(set(whole)):
            break
    return keys


def _digest(thing: Any, path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise ConfigError(
            f"files() of {type(thing).__name__} names {str(path)!r}, which cannot be read ({error.strerror}). Let it "
            "name files, not folders, that are there."
        ) from error
