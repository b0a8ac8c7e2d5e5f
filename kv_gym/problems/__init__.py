"""Where problems come from: one file per source, found by name through the entry points of `kv_gym.problems`."""

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

from kv_gym.config import EnvConfig
from kv_gym.errors import ConfigError, KVGymError, unknown_name
from kv_gym.problems.base import Problem, ProblemSource
from kv_gym.problems.formats import is_file_name
from kv_gym.problems.hub import HubSet
from kv_gym.problems.instructions import InstructedSource
from kv_gym.problems.mixed import MixedSource
from kv_gym.problems.recorded import read_file
from kv_gym.registry import plugins

GROUP = "kv_gym.problems"
PARTS = ("name", "families", "size", "problem")
"""What a source has (`ProblemSource`)."""


def source_entries() -> dict[str, EntryPoint]:
    """Return the entry point of every installed source, by name, sorted; nothing is loaded.

    Raises:
        ConfigError: Two packages claim one name.
    """
    return plugins(GROUP, "problem source")


def source_kind(name: str) -> Callable[[], ProblemSource]:
    """Return what an installed source is made by: a class, or whatever else gives one when it is called.

    Raises:
        UnknownNameError: There is none of that name.
        ConfigError: It cannot be imported.
    """
    entries = source_entries()
    if name not in entries:
        none = "" if entries else "No package with problems is installed: run `pip install -e .` first. "
        raise unknown_name("problem source", name, entries, fix=none + "Or give a local file: problems=my.jsonl.")
    try:
        kind: Callable[[], ProblemSource] = entries[name].load()
    except Exception as error:  # whatever somebody else's package does when it is imported
        raise _broken(name, "cannot be imported", error) from error
    return kind


def _broken(name: str, what: str, error: Exception) -> ConfigError:
    """The error for a source of somebody else's that raised."""
    return ConfigError(
        f"problem source {name!r} ({source_entries()[name].value}) {what}: {type(error).__name__}: {error}. Mend or "
        "uninstall the package that offers it."
    )


@functools.cache
def problem_source(name: str | tuple[str, ...], traces: bool = False) -> ProblemSource:
    """Return the source called `name`, or that of a local file; of several names, all of them in turn.

    Args:
        name: Of a source or a file.
        traces: Whether recorded sets are read for their traces, from whatever field may hold one.

    Raises:
        UnknownNameError: There is none.
        ProblemFileError: A file is damaged, or its rows are no problems.
        ConfigError: A recorded set is neither here nor to be had, or an entry point is no source.
    """
    if isinstance(name, tuple):
        return MixedSource([problem_source(one, traces) for one in name])
    looks_like_a_file = Path(name).suffix or Path(name).name != name
    if is_file_name(name) or (looks_like_a_file and name not in source_entries()):
        return read_file(Path(name), traces)
    kind = source_kind(name)
    try:
        source = kind(traces=True) if traces and isinstance(kind, HubSet) else kind()
    except KVGymError:
        raise
    except Exception as error:
        raise _broken(name, "cannot be made", error) from error
    missing = [part for part in PARTS if not hasattr(source, part)]
    if missing:
        raise ConfigError(
            f"problem source {name!r} ({source_entries()[name].value}) has no {', '.join(missing)}. See "
            "kv_gym.problems.base.ProblemSource for what a source needs."
        )
    return source


def source_of(config: EnvConfig) -> ProblemSource:
    """Where the problems of an env come from, with the instruction that its settings ask for.

    Raises:
        KVGymError: As `problem_source`.
    """
    source = problem_source(config.problems, config.needs_trace)
    return source if config.instruction is None else InstructedSource(source, config.instruction)


def problem_count(config: EnvConfig) -> int:
    """Problems of an env: `n_problems`, or as many as there are."""
    size = source_of(config).size(config.split)
    return config.n_problems if size is None else min(config.n_problems, size)


def problem_at(config: EnvConfig, index: int) -> Problem:
    """Return problem `index` of an env.

    Raises:
        ConfigError: It is none, or has no trace where the env needs one.
    """
    problem = source_of(config).problem(config.split, config.problem_seed, index)
    if not isinstance(problem, Problem):
        raise ConfigError(f"problems={config.problems!r} gives {type(problem).__name__}, not a Problem.")
    if config.needs_trace and not problem.trace:
        raise ConfigError(
            f"problem {problem.id} has no recorded trace, and this environment replays one (needs_trace=true). Give "
            "problems with traces, such as a file (docs/problems.md), or set needs_trace=false: the LLM's own text is "
            "then replayed."
        )
    return problem


def list_problems(config: EnvConfig) -> list[Problem]:
    """All problems of an env.

    Raises:
        ConfigError: There is none, two have one id, or as `problem_at`.
    """
    found = [problem_at(config, index) for index in range(problem_count(config))]
    if not found:
        raise ConfigError(f"problems={config.problems!r} has no problem in its {config.split} split. Take another one.")
    known = {problem.id: problem for problem in found}
    if len(known) < len(found):
        twice = next(problem.id for problem in found if known[problem.id] is not problem)
        raise ConfigError(f"problems={config.problems!r} has two problems {twice!r}. Give each an id of its own.")
    return found


__all__ = [
    "Problem", "ProblemSource", "list_problems", "problem_at", "problem_count", "problem_source", "source_entries",
    "source_kind", "source_of",
]  # fmt: skip
