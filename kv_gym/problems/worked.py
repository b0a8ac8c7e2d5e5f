"""What problems with written-out solutions share: how a line is worked out, and sources that never end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from kv_gym.problems.base import Problem, problem_rng
from kv_gym.problems.grading import Graded

MODULUS = 1000
LETTERS = "abcdefghijklmnopqr"

KEYS = [a + b for a in LETTERS for b in LETTERS if a != b]
NOTATION = """\
In a line such as `c=a+b=037+512:7+2+0=09,3+1+0=04,0+5+0=05;c=549` two values are looked up (`037+512`) and added or
subtracted digit by digit, from the units on: `7+2+0=09` adds a carry of 0, and the first digit of its result is the
carry of the next. Then the value is stated again under its name. All lines have this shape, which makes the arithmetic
learnable by an LLM of 1 to 2 million parameters."""
"""How `worked_line` is read."""

Draft = tuple[str, str, int | str]  # prompt, solution, answer
Drawer = Callable[[np.random.Generator, int, bool], Draft]  # (rng, operations, values alike)
Entry = tuple[str, str, str]  # target, operator, other variable: target = target op other


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


def draw_entries(rng: np.random.Generator, names: list[str], n: int) -> list[Entry]:
    """Draw n different ways of adding one variable to another or taking it away."""
    every = [(a, op, b) for a in names for b in names if a != b for op in "+-"]
    return [every[i] for i in rng.permutation(len(every))[:n]]


class MadeSource:
    """Problems without end, a pure function of (split, seed, index): problem `index` is of family ``index % families``.

    Attributes:
        name: Starts the problems' ids.
        drafts: What draws a problem of each family.
        graded: How answers are scored.
        notation: How a solution is read.
        n_ops: Operations (questions, statements, salient facts) of each family's problems, lowest and highest.
    """

    name: str
    drafts: ClassVar[Mapping[str, Drawer]]
    graded: ClassVar[Graded] = "answer"
    notation: ClassVar[str] = NOTATION
    n_ops: ClassVar[Mapping[str, tuple[int, int]]]

    @property
    def families(self) -> tuple[str, ...]:
        """Kinds of problems, in turn."""
        return tuple(self.drafts)

    def draft(self, family: str, rng: np.random.Generator, n_ops: int | None = None, near: bool = False) -> Draft:
        """Draw one problem of a family; `n_ops` and `near` make training problems shorter or values alike."""
        low, high = self.n_ops[family]
        return self.drafts[family](rng, int(rng.integers(low, high + 1)) if n_ops is None else n_ops, near)

    def size(self, split: str) -> int | None:
        """There is no last problem."""
        return None

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`; the same arguments always give the same problem."""
        family = self.families[index % len(self.families)]
        prompt, solution, answer = self.draft(family, problem_rng(split, seed, index))
        gold = answer if isinstance(answer, str) else f"{answer:03}"
        return Problem(f"{self.name}/{split}/{seed}/{index}", family, prompt, gold, solution, self.graded)
