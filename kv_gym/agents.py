"""Agents by name, or from a file of one's own. The suite knows them by their protocol and imports none of them."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from kv_gym.errors import ConfigError, unknown_name
from kv_gym.identity import FILE_MODULE, imports_of, remember_options
from kv_gym.registry import plugins

if TYPE_CHECKING:
    from torch import Tensor

    from kv_gym.engine.slots import SlotView
    from kv_gym.llm.loading import FrozenLLM

GROUP = "kv_gym.agents"
ATTRIBUTES = {"needs_statistics": bool, "uses_hindsight": bool, "evicts": bool}
OWN_AGENT = "Or give a file of your own: path/to/mine.py:MyAgent."


class AgentLike(Protocol):
    """What the suite asks of an agent; `kv_agents.base.Agent` explains it and fills in the defaults."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def needs_statistics(self) -> bool:
        """Whether it reads the attention accumulators."""
        ...

    @property
    def uses_hindsight(self) -> bool:
        """Whether it reads `slots.hindsight`; such agents are reference lines and never ranked."""
        ...

    @property
    def evicts(self) -> bool:
        """False only for the full cache, which is not asked for scores."""
        ...

    def score(self, slots: SlotView) -> Tensor:
        """Return keep scores [N, L, H_kv, S], float; higher = keep."""
        ...


def agent_entries() -> dict[str, EntryPoint]:
    """Return the entry point of every installed agent, by name, sorted; nothing is loaded.

    Raises:
        ConfigError: Two packages claim one name.
    """
    return plugins(GROUP, "agent")


def agent_class(name_or_path: str) -> type[AgentLike]:
    """Return the class of an agent; see `load_agent`."""
    path, colon, class_name = name_or_path.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), class_name)
    if name_or_path.endswith(".py"):
        raise ConfigError(f"{name_or_path!r} does not say which class. Use {name_or_path}:MyAgent.")
    entries = agent_entries()
    if name_or_path not in entries:
        none = "" if entries else "No package with agents is installed: run `pip install -e .` first. "
        raise unknown_name("agent", name_or_path, entries, fix=none + OWN_AGENT)
    return _checked(entries[name_or_path].load(), entries[name_or_path].value)


def known_agents() -> dict[str, type[AgentLike]]:
    """Return the class of every installed agent, by name, sorted.

    Raises:
        ConfigError: An entry point is not an agent, or two packages claim one name.
    """
    return {name: _checked(entry.load(), entry.value) for name, entry in agent_entries().items()}


def load_agent(name_or_path: str, **options: Any) -> AgentLike:
    """Build an agent.

    Args:
        name_or_path: A name among the entry points of the group `kv_gym.agents`, such as "h2o", or a class in a file,
            such as "path/to/mine.py:MyAgent".
        options: What the class takes.

    Raises:
        UnknownNameError: No agent, class or option has that name.
        ConfigError: The file is missing, the class is not an agent, or an option it needs is missing.
    """
    found = agent_class(name_or_path)
    _check_options(found, options)
    agent = found(**options)
    remember_options(agent, (), options)
    return agent


def prepare_agent(agent: AgentLike, llm: FrozenLLM) -> None:
    """Let an agent see the model it will work on, if it wants to: learned agents refuse models they do not fit."""
    prepare = getattr(agent, "prepare", None)
    if prepare is not None:
        prepare(llm)


def _from_file(path: Path, class_name: str) -> type[AgentLike]:
    if not path.is_file():
        raise ConfigError(f"agent file {str(path)!r} does not exist (looked in {Path.cwd()}). {OWN_AGENT}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # what lies beside the agent can be imported, now and when it scores
        sys.path.insert(0, folder)
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    module_name = f"{FILE_MODULE}{place}_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    _check_neighbours(module, Path(folder))
    if not hasattr(module, class_name):
        agents = [name for name, value in vars(module).items() if inspect.isclass(value) and _is_agent(value)]
        raise unknown_name(f"class in {path}", class_name, agents)
    return _checked(getattr(module, class_name), f"{path}:{class_name}")


def _check_neighbours(module: ModuleType, folder: Path) -> None:
    """Refuse a module whose imports were answered by files of the same name in another agent's folder.

    Raises:
        ConfigError: Names the file.
    """
    for name in imports_of(module):
        other, here = sys.modules.get(name), folder / f"{name.replace('.', '/')}.py"
        if other is not None and here.is_file() and Path(str(getattr(other, "__file__", ""))).resolve() != here:
            raise ConfigError(
                f"{module.__file__} imports {name!r}, but another file of that name is loaded ({other.__file__}). "
                f"Rename {here.name}, or run the two agents one after the other."
            )


def _is_agent(value: type) -> bool:
    named = isinstance(getattr(value, "name", None), str)
    return named and callable(getattr(value, "score", None)) and not inspect.isabstract(value)


def _checked(value: Any, source: str) -> type[AgentLike]:
    """Return `value`, which `source` gave, if it is a class that can be used as an agent."""
    if not (inspect.isclass(value) and callable(getattr(value, "score", None))):
        raise ConfigError(f"{source} is not an agent. Make it a subclass of kv_agents.base.Agent.")
    if inspect.isabstract(value):
        raise ConfigError(f"{source} does not score slots. Give it a method score(self, slots).")
    if not isinstance(getattr(value, "name", None), str):
        raise ConfigError(f'{source} has no name. Give the class one: name = "my-agent".')
    for attribute, kind in ATTRIBUTES.items():
        if not isinstance(getattr(value, attribute, None), kind):
            raise ConfigError(
                f"{source} does not say {attribute}. Make it a subclass of kv_agents.base.Agent, which does, or set "
                f"{attribute} = True or False."
            )
    return cast("type[AgentLike]", value)


def _check_options(found: type[AgentLike], options: dict[str, Any]) -> None:
    signature = inspect.signature(found)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for option in options:
        if option not in signature.parameters and not takes_any:
            raise unknown_name(f"option of agent {found.name!r}", option, signature.parameters)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(f"agent {found.name!r}: {error}. It takes {signature}.") from error
