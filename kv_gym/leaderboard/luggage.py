"""What an agent takes along into a submission: its file, the modules that lie beside it, and what it reads."""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from kv_gym.agents import AgentLike, agent_entries
from kv_gym.errors import ConfigError
from kv_gym.identity import FILE_MODULE, files_of, is_installed, sources_of
from kv_gym.leaderboard.files import AGENT_FOLDER, MAX_PLACE, PLACE, FileRefused, parse_json, read_bounded

AGENT_TYPES = (".py", ".safetensors", ".json")
MAX_AGENT_FILES = 32


# --- What travels ------------------------------------------------------------------------------------------------


def luggage(agent: AgentLike, source: Path | None) -> dict[str, Path]:
    """Find all files that an agent needs, by their place inside `agent/`.

    Args:
        agent: Whose.
        source: The file that it was loaded from; None for an installed agent.

    Raises:
        ConfigError: Two files want one place, there are too many, or one is of a kind that no submission holds.
    """
    wanted = [(source.name, source), *_modules(source)] if source else []
    wanted += [(_place(path, source), path) for path in files_of(agent)]
    found: dict[str, Path] = {}
    for place, path in wanted:
        if found.setdefault(place, path).resolve() != path.resolve():
            raise ConfigError(f"{found[place]} and {path} would both be agent/{place}. Rename one of them.")
    if len(found) > MAX_AGENT_FILES:
        raise ConfigError(
            f"the agent brings {len(found)} files; {MAX_AGENT_FILES} are allowed. Import fewer modules, or put several "
            "files into one."
        )
    for place, path in found.items():
        try:
            check_place(place)
            check_content(path)
        except FileRefused as refused:
            raise ConfigError(f"{path} cannot be part of a submission: {refused.detail}") from refused
    return found


def _place(path: Path, source: Path | None) -> str:
    """Where a file goes: `agent/` is both the folder of the agent's file and the working directory when it loads."""
    if source is None:  # an installed agent is told where its files are
        return path.name
    if not path.is_absolute() and ".." not in path.parts:
        return path.as_posix()
    for folder in (source.resolve().parent, Path.cwd()):
        if path.resolve().is_relative_to(folder):
            return path.resolve().relative_to(folder).as_posix()
    return path.name


def _modules(source: Path) -> Iterator[tuple[str, Path]]:
    for name, path in local_modules(source).items():
        folder = PurePosixPath(*name.split("."))
        yield str(folder / path.name if path.name == "__init__.py" else folder.with_suffix(".py")), path


def local_modules(source: Path) -> dict[str, Path]:
    """Sources of the modules that an agent's file imports and that belong to no installed package, by name."""
    module = _module_of(source)
    found = sources_of([module]).modules
    return {name: found[name] for name in sorted(found) if name != module.__name__ and not is_packaged(found[name])}


def _module_of(source: Path) -> ModuleType:
    """The module that an agent's file became when it was loaded; of several the newest."""
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(FILE_MODULE)]
    return next(one for one in reversed(loaded) if Path(str(one.__file__)).resolve() == source.resolve())


def is_packaged(path: Path) -> bool:
    """Whether a file comes with Python, an installed package, or one that offers agents, also an editable one."""
    folders = [Path(sysconfig.get_path("stdlib")).resolve(), *packages()]
    return is_installed(path) or any(path.resolve().is_relative_to(folder) for folder in folders)


def packages() -> list[Path]:
    """Folders of kv-gym and of every package that offers agents."""
    tops = {"kv_gym", *(entry.module.partition(".")[0] for entry in agent_entries().values())}
    specs = [importlib.util.find_spec(name) for name in sorted(tops)]
    return [Path(place).resolve() for spec in specs if spec for place in spec.submodule_search_locations or []]


# --- Options that name files -------------------------------------------------------------------------------------


def packed_options(options: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    """Options in which the path of a file that travels is its place in the submission."""
    places = {path.resolve(): f"{AGENT_FOLDER}/{place}" for place, path in files.items()}
    return {
        name: places.get(Path(value).resolve(), value) if isinstance(value, str) and "\0" not in value else value
        for name, value in options.items()
    }


def unpacked_options(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with the paths of the files in a submission's folder."""
    return {name: str(folder / value) if _travelled(value, folder) else value for name, value in options.items()}


def _travelled(value: Any, folder: Path) -> bool:
    named = isinstance(value, str) and re.fullmatch(f"{AGENT_FOLDER}/{PLACE}", value)
    return bool(named) and (folder / value).is_file()


# --- What a submission may hold ----------------------------------------------------------------------------------


def check_place(place: str) -> None:
    """Check the path of a file inside `agent/`.

    Raises:
        FileRefused: It has other characters, is too deep or too long, or the type is none that a submission holds.
    """
    if PurePosixPath(place).suffix not in AGENT_TYPES:
        raise FileRefused("schema.file-type", f"agent/{place[:200]!r}: agent/ holds {', '.join(AGENT_TYPES)} only.")
    if len(place) > MAX_PLACE or not re.fullmatch(PLACE, place):
        raise FileRefused(
            "schema.file-type",
            f"agent/{place[:200]!r}: paths in agent/ have at most {MAX_PLACE} characters and 5 parts of A-Z, a-z, 0-9, "
            "_, . and -.",
        )


def check_content(path: Path) -> None:
    """Check that a file in `agent/` is what its name says.

    Raises:
        FileRefused: It is not, or too large.
    """
    data = read_bounded(path.resolve())
    if path.suffix == ".json":
        parse_json(data)
    elif path.suffix == ".safetensors":
        try:
            load(data)
        except (SafetensorError, ValueError) as error:
            raise FileRefused("schema.agent-file", f"{path.name} is no safetensors file: {error}") from error
    elif b"\0" in data:
        raise FileRefused("schema.agent-file", f"{path.name} is no text.")
