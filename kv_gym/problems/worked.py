"""What problems with written-out solutions share: how a line is worked out, and sources that make problems without end.

Every line of a solution has the same shape and width, ``c=a+b=037+512:7+2+0=09,3+1+0=04,0+5+0=05;c=549``: two values
looked up, added or subtracted digit by digit from the units (first digit of each result: the carry or borrow), and the
value stated again under its name. That makes the arithmetic learnable by a model of 1-2 M parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np

from kv_gym.problems.base import Problem, problem_rng

MODULUS = 1000
LETTERS = "abcdefghijklmnopqr"

Draft = tuple[str, str, int | str]  # prompt, solution, answer


def worked_line(target: str, left: str, op: str, right: str, values: dict[str, int]) -> str:
    """Write one operation out digit by digit and store its result in `values[target]`."""
    x, y = values[left], values[right]
    steps, carry = [], 0
    for place in (1, 10, 100):
        a, b = x // place % 10, y // place % 10
        total = a + b + carry if op == "+" else a - b - carry
        new_carry = int(total > 9 or total < 0)
        steps.append(f"{a}{op}{b}{op}{carry}={new_carry}{total % 10}")
        carry = new_carry
    values[target] = (x + y if op == "+" else x - y) % MODULUS
    return f"{target}={left}{op}{right}={x:03}{op}{y:03}:{','.join(steps)};{target}={values[target]:03}"


def boxed(name: str, value: int) -> str:
    """Close a solution: the name that was asked for, and its boxed value."""
    return f"?{name}\\boxed{{{value:03}}}"


def draw_values(rng: np.random.Generator, names: str | list[str], near: bool) -> dict[str, int]:
    """Draw a value for each name; with `near`, all after the first are tiny or almost the first.

    Values that differ in one digit are rare otherwise, and easily mistaken for each other.
    """
    values = {name: int(rng.integers(MODULUS)) for name in names}
    if near:
        for name in names[1:]:
            values[name] = (int(rng.integers(2)) * values[names[0]] + int(rng.integers(10))) % MODULUS
    return values


class MadeSource:
    """Problems without end, a pure function of (split, seed, index): problem `index` is of family ``index % families``.

    Attributes:
        name: Starts the problems' ids.
        families: Their kinds.
        graded: How answers are scored.
        n_ops: Operations (questions, statements, salient facts) of each family's problems, lowest and highest.
        draft: Draws (prompt, solution, answer) of a family.
    """

    name: str
    families: tuple[str, ...]
    graded: ClassVar[Literal["answer", "coverage"]] = "answer"
    n_ops: ClassVar[dict[str, tuple[int, int]]]
    draft: ClassVar[Callable[..., Draft]]

    def size(self, split: str) -> int | None:
        """There is no last problem."""
        return None

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`; the same arguments always give the same problem."""
        family = self.families[index % len(self.families)]
        prompt, solution, answer = self.draft(family, problem_rng(split, seed, index))
        gold = answer if isinstance(answer, str) else f"{answer:03}"
        return Problem(f"{self.name}/{split}/{seed}/{index}", family, prompt, gold, solution, self.graded)
