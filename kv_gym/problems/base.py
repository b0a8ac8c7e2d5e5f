"""What a problem is, and how splits stay apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kv_gym.problems.grading import Graded

SPLIT_IDS = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Problem:
    """One problem: what the LLM reads, and what it should find.

    Attributes:
        id: Unique over all sources, such as ``aime/test/0/17`` (source, split, seed, index).
        family: Kind of problem inside its source; results are reported per family.
        prompt: Text the LLM reads.
        answer: Gold answer as text; graded by mathematics, not by string.
        solution: A written-out solution with the boxed answer, or "" where none is known. Used to train the embedded
            model; environments never read it.
        graded: `answer`: the boxed answer is right or wrong. `coverage`: the share of the gold list's items it holds.
        trace: Somebody's recorded reasoning, read in place of the LLM's own, or "". `answer` is what it comes to.
    """

    id: str
    family: str
    prompt: str
    answer: str
    solution: str = ""
    graded: Graded = "answer"
    trace: str = ""


class ProblemSource(Protocol):
    """Where problems come from. Problems are a pure function of (split, seed, index)."""

    name: str

    @property
    def families(self) -> tuple[str, ...]:
        """Kinds of problems."""
        ...

    def size(self, split: str) -> int | None:
        """Number of problems of a split; None is without end."""
        ...

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`."""
        ...


def problem_rng(split: str, seed: int, index: int) -> np.random.Generator:
    """Return the random stream of one problem.

    `seed + index` would make neighbouring seeds share nearly all their problems; hashing the triple does not.
    """
    return np.random.default_rng(np.random.SeedSequence([SPLIT_IDS[split], seed, index]))
