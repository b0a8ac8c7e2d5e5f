"""Where problems come from: one file per source."""

import functools
from pathlib import Path

from kv_gym.config import EnvConfig
from kv_gym.errors import unknown_name
from kv_gym.problems.aime import AIMESource
from kv_gym.problems.base import Problem, ProblemSource
from kv_gym.problems.code import CodeSource
from kv_gym.problems.mixed import MixedSource
from kv_gym.problems.recorded import HUB_SETS, read_file, read_hub
from kv_gym.problems.retrieval import RetrievalSource
from kv_gym.problems.summary import SummarySource
from kv_gym.problems.worked import MadeSource

MADE: dict[str, type[MadeSource]] = {
    "aime": AIMESource,
    "code": CodeSource,
    "retrieval": RetrievalSource,
    "summary": SummarySource,
}


@functools.cache
def problem_source(name: str) -> ProblemSource:
    """Return the source called `name`, or that of a local `.jsonl` file.

    Raises:
        UnknownNameError: There is none.
        ConfigError: A recorded set is neither here nor to be had.
    """
    if name in MADE:
        return MADE[name]()
    if name == MixedSource.name:
        return MixedSource([kind() for kind in MADE.values()])
    if name.endswith(".jsonl"):
        return read_file(Path(name))
    if name in HUB_SETS:
        return read_hub(name)
    raise unknown_name(
        "problem source", name, [*MADE, MixedSource.name, *HUB_SETS], fix="Or give a local file: problems=my.jsonl."
    )


def problem_count(config: EnvConfig) -> int:
    """Problems of an env: `n_problems`, or as many as there are."""
    size = problem_source(config.problems).size(config.split)
    return config.n_problems if size is None else min(config.n_problems, size)


def list_problems(config: EnvConfig) -> list[Problem]:
    """All problems of an env."""
    source = problem_source(config.problems)
    return [source.problem(config.split, config.problem_seed, index) for index in range(problem_count(config))]


__all__ = ["Problem", "ProblemSource", "list_problems", "problem_count", "problem_source"]
