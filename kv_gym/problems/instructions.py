"""Problems with an instruction of your own in place of the one that recorded questions get."""

from __future__ import annotations

from dataclasses import replace

from kv_gym.problems.base import Problem, ProblemSource
from kv_gym.problems.recorded import INSTRUCTION


def instructed(problem: Problem, instruction: str) -> Problem:
    """A problem with another instruction behind its question."""
    question = problem.prompt.removesuffix(INSTRUCTION)
    return replace(problem, prompt=question + (f"\n\n{instruction}" if instruction else ""))


class InstructedSource:
    """A source whose questions have another instruction.

    Args:
        source: Gives the problems.
        instruction: Follows each question, after an empty line, in place of the usual one; "" for none.
    """

    def __init__(self, source: ProblemSource, instruction: str) -> None:
        self.source, self.instruction = source, instruction
        self.name = source.name

    @property
    def families(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.families

    def size(self, split: str) -> int | None:
        """The source's."""
        return self.source.size(split)

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`."""
        return instructed(self.source.problem(split, seed, index), self.instruction)
