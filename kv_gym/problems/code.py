"""Small programs that are run line by line: loops and reassignments, and one value is printed."""

from __future__ import annotations

import numpy as np

from kv_gym.problems.worked import (
    LETTERS,
    Draft,
    Drawer,
    Entry,
    MadeSource,
    boxed,
    draw_entries,
    draw_values,
    worked_line,
)

Block = tuple[int, list[Entry]]  # repetitions, body


def _run(kind: str, rng: np.random.Generator, blocks: list[Block], names: list[str], near: bool) -> Draft:
    """Write the program and its execution; a round of a loop starts with a line that counts it."""
    values = draw_values(rng, names, near)
    program = [f"{name}={values[name]:03}" for name in names]
    lines = []
    for times, body in blocks:
        text = ";".join(f"{a}={a}{op}{b}" for a, op, b in body)
        program.append(text if times == 1 else f"{times}({text})")
        for turn in range(times):
            if times > 1:
                lines.append(f"{times}:{turn + 1}")
            lines += [worked_line(a, a, op, b, values) for a, op, b in body]
    printed = names[int(rng.integers(len(names)))]
    prompt = f"{kind} {';'.join(program)};!{printed}\n"
    return prompt, "\n".join([*lines, boxed(printed, values[printed])]), values[printed]


def _names(rng: np.random.Generator) -> list[str]:
    return [LETTERS[i] for i in rng.permutation(len(LETTERS))[:3]]


def straight(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """Statements without a loop: each is needed once."""
    names = _names(rng)
    return _run("straight", rng, [(1, draw_entries(rng, names, n_ops))], names, near)


def loop(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """A loop of two statements, which are needed again in each round, with single ones before and after it."""
    names = _names(rng)
    times = max(2, (n_ops - 2) // 2)
    before, body, after = (draw_entries(rng, names, n) for n in (1, 2, 1))
    return _run("loop", rng, [(1, before), (times, body), (1, after)], names, near)


def loops(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """Two loops of two statements, one after the other: once the first is done, it is never needed again."""
    names = _names(rng)
    first = int(rng.integers(2, 4))
    second = max(2, n_ops // 2 - first)
    blocks = [(times, draw_entries(rng, names, 2)) for times in (first, second)]
    return _run("loops", rng, blocks, names, near)


FAMILIES: dict[str, Drawer] = {
    "straight": straight,
    "loop": loop,
    "loops": loops,
}
N_OPS = (7, 9)
"""Executed statements, lowest and highest: solutions of about 330 to 480 tokens."""


class CodeSource(MadeSource):
    """A program is run, modulo 1000: `2(a=a+b;b=b-c)` repeats a bracket twice, and `!c` prints c.

    The solution works out each statement as it is executed; a line such as `2:1` counts the rounds of a loop.
    """

    name = "code"
    drafts = FAMILIES
    n_ops = dict.fromkeys(FAMILIES, N_OPS)
