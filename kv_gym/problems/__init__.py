"""Where problems come from: one file per source."""

from kv_gym.errors import unknown_name
from kv_gym.problems.aime import AIMESource
from kv_gym.problems.base import Problem, ProblemSource

SOURCES: dict[str, type[ProblemSource]] = {"aime": AIMESource}


def problem_source(name: str) -> ProblemSource:
    """Return the source called `name`.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in SOURCES:
        raise unknown_name("problem source", name, SOURCES)
    return SOURCES[name]()


__all__ = ["Problem", "ProblemSource", "problem_source"]
