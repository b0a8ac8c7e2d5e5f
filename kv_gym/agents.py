"""Agents by name, or from a file of one's own. The suite knows them by their protocol and imports none of them."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import re
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast, get_type_hints

from kv_gym.config import plain
from kv_gym.errors import ConfigError, KVGymError, unknown_name
from kv_gym.identity import FILE_MODULE, mixed_up, remember_options
from kv_gym.llm.accumulators import ACCUMULATORS
from kv_gym.registry import plugins

if TYPE_CHECKING:
    from torch import Tensor

    from kv_gym.engine.slots import SlotView
    from kv_gym.llm.frozen import FrozenLLM

GROUP = "kv_gym.agents"
MAX_NAME = 64
ATTRIBUTES = {"uses_hindsight": bool, "evicts": bool}
OWN_AGENT = "Or give a file of your own: path/to/mine.py:MyAgent."


class AgentLike(Protocol):
    """What the suite asks of an agent; `kv_agents.base.Agent` explains it and fills in the defaults."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The attention accumulators that it reads, by their names in `SlotView`."""
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
    try:
        agent = found(**options)
    except KVGymError:
        raise
    except Exception as error:  # an option that the class cannot work with
        given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"agent {found.name!r} cannot be built with {given}: {reason}.") from error
    remember_options(agent, (), options)
    check_name(agent.name, name_or_path)
    return agent


def check_name(name: Any, source: str) -> None:
    """Refuse a name that tables cannot show; a file of one's own may not take an installed agent's.

    Raises:
        ConfigError: Says what a name is.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError(
            f"{source}: its name is {name!r:.200}. A name is one printable line of 1 to {MAX_NAME} characters."
        )
    if source.rpartition(":")[0].endswith(".py") and name in agent_entries():
        raise ConfigError(f"{source}: {name!r} is the name of an installed agent. Give your class another one.")


def rename(agent: AgentLike, name: str) -> AgentLike:
    """Give an agent the name that rows, tables and plots call it: two settings of one class are then told apart.

    Rows of another name are other rows: what was played under the class's own name is played again.

    Raises:
        ConfigError: It is no name, is that of another installed agent, or the agent takes none.
    """
    check_name(name, f"agent {agent.name!r}")
    if name in agent_entries() and name != agent.name:
        raise ConfigError(f"{name!r} is the name of an installed agent. Call {agent.name!r} something else.")
    try:
        object.__setattr__(agent, "name", name)
    except AttributeError as error:
        raise ConfigError(f"agent {agent.name!r} does not take another name: {error}. Leave it out.") from error
    return agent


def queries_of(agent: AgentLike) -> int:
    """How many of the newest queries an agent reads: its attribute `n_obs`, if it has one; it gets as many."""
    found = getattr(agent, "n_obs", 0)
    return found if isinstance(found, int) else 0


@dataclass(frozen=True)
class Option:
    """One option of an agent.

    Attributes:
        name: Its name.
        type: What it takes, as its class says; "" where it does not.
        default: Its default, as text; None where it must be given.
        meaning: What the class's docstring says of it.
    """

    name: str
    type: str
    default: str | None
    meaning: str


def agent_options(found: type[AgentLike]) -> list[Option]:
    """The options of an agent's class, as `--agent NAME,OPTION=VALUE` takes them."""
    meanings, hints = _meanings(found), _hints(found)
    options = []
    for name, parameter in inspect.signature(found).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        kind = hints.get(name)
        default = None if parameter.default is parameter.empty else repr(parameter.default)
        shown = "" if kind is None else kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        options.append(Option(name, shown, default, meanings.get(name, "")))
    return options


def _meanings(found: type) -> dict[str, str]:
    """What the `Args:` of a class's docstring, or of those that it inherits from, say by name."""
    meanings: dict[str, str] = {}
    for base in reversed(found.__mro__):
        told = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2].split("\n\n")[0]
        pieces = re.split(r"^    (\w+): ", told, flags=re.M)[1:]
        meanings |= {name: " ".join(text.split()) for name, text in zip(pieces[::2], pieces[1::2], strict=True)}
    return meanings


def _hints(found: type) -> dict[str, Any]:
    """Annotations of a class's options, as far as they can be understood."""
    try:
        return get_type_hints(vars(found).get("__init__", found.__init__))  # type: ignore[misc]
    except Exception:  # names that are only known to type checkers
        return {}


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
    _check_neighbours(module)
    if not hasattr(module, class_name):
        agents = [name for name, value in vars(module).items() if inspect.isclass(value) and _is_agent(value)]
        raise unknown_name(f"class in {path}", class_name, agents)
    return _checked(getattr(module, class_name), f"{path}:{class_name}")


def _check_neighbours(module: ModuleType) -> None:
    """Refuse a module whose imports, however deep, were answered by files of the same name in another agent's folder.

    Raises:
        ConfigError: Names the file.
    """
    found = mixed_up(module)
    if found is not None:
        name, here, other = found
        wrong = here.parent.name if here.name == "__init__.py" else here.name
        raise ConfigError(
            f"{module.__file__} imports {name!r}, but another file of that name is loaded ({other}). "
            f"Rename {wrong}, or run the two agents one after the other."
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
    _check_needs(getattr(value, "needs", None), source)
    return cast("type[AgentLike]", value)


def _check_needs(needs: Any, source: str) -> None:
    """Refuse a class that does not say which accumulators it reads; where it is a property, each agent says."""
    if isinstance(needs, property):
        return
    if not isinstance(needs, tuple) or any(name not in ACCUMULATORS for name in needs):
        raise ConfigError(
            f"{source}: needs = {needs!s:.100} names no accumulators. Make it a subclass of kv_agents.base.Agent, "
            f"which needs none, or set needs to a tuple of {', '.join(map(repr, ACCUMULATORS))}."
        )


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
    hints = _hints(found)
    for name, value in options.items():
        if name in hints:
            _check_type(found, name, value, hints[name])


def _check_type(found: type[AgentLike], name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of an option's annotated type, or no number.

    Raises:
        ConfigError: Names the option, the value and the type.
    """
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(kind)
    except PydanticSchemaGenerationError:  # a class of its own
        return
    shown = next(option.type for option in agent_options(found) if option.name == name)
    try:
        adapter.validate_python(plain(value), strict=not isinstance(value, list))  # a list may be a tuple
        finite = not isinstance(value, float) or math.isfinite(value)
    except ValidationError:
        finite = False
    if not finite:
        raise ConfigError(f"option {name}={value!r} of agent {found.name!r} is not allowed: it takes {shown}.")
