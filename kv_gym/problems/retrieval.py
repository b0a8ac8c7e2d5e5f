"""Records that are asked for one after another: what is not asked first must still be there."""

from __future__ import annotations

import numpy as np

from kv_gym.problems.worked import KEYS, LETTERS, MODULUS, Draft, Drawer, MadeSource, boxed, draw_values, worked_line

SUM = "s"  # not among the letters


def _ask(kind: str, listed: list[tuple[str, int]], asked: list[str]) -> Draft:
    """Write the problem and its solution: the first record, then one line a question."""
    values = dict(listed)  # the last one counts
    records = ",".join(f"{key}={value:03}" for key, value in listed)
    lines = [f"{SUM}={asked[0]}={values[asked[0]]:03}"]
    values[SUM] = values[asked[0]]
    lines += [worked_line(SUM, SUM, "+", key, values) for key in asked[1:]]
    prompt = f"{kind} {records}?{','.join(asked)}\n"
    return prompt, "\n".join([*lines, boxed(SUM, values[SUM])]), values[SUM]


def _draw(rng: np.random.Generator, keys: list[str], near: bool) -> list[tuple[str, int]]:
    """Keys with values, in shuffled order."""
    values = draw_values(rng, keys, near)
    return [(keys[i], values[keys[i]]) for i in rng.permutation(len(keys))]


def records(rng: np.random.Generator, n_asked: int, near: bool) -> Draft:
    """Twice as many records as questions, each with a key of its own: half of them are never asked for."""
    keys = [KEYS[i] for i in rng.permutation(len(KEYS))[: 2 * n_asked]]
    return _ask("records", _draw(rng, keys, near), keys[:n_asked])


def updates(rng: np.random.Generator, n_asked: int, near: bool) -> Draft:
    """Half of the records are given again later with another value, and the last one counts."""
    keys = [KEYS[i] for i in rng.permutation(len(KEYS))[: n_asked + 2]]
    again = [keys[i] for i in rng.permutation(len(keys))[: len(keys) // 2]]
    newer = [(key, int(rng.integers(MODULUS))) for key in again]
    return _ask("updates", [*_draw(rng, keys, near), *newer], [keys[i] for i in rng.permutation(n_asked)])


def twins(rng: np.random.Generator, n_asked: int, near: bool) -> Draft:
    """Every key has a twin with the same first letter, and one of the two is asked for."""
    firsts = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:n_asked]]
    keys = [first + LETTERS[j] for first in firsts for j in rng.permutation(len(LETTERS))[:2]]
    return _ask("twins", _draw(rng, keys, near), [keys[2 * i + int(rng.integers(2))] for i in range(n_asked)])


FAMILIES: dict[str, Drawer] = {
    "records": records,
    "updates": updates,
    "twins": twins,
}
N_ASKED = (7, 9)
"""Questions per problem, lowest and highest: solutions of about 300 to 430 tokens."""


class RetrievalSource(MadeSource):
    """Records, then the keys that are asked for. Their values are looked up one by one and added up, modulo 1000.

    What is not asked first must still be there when its turn comes.
    """

    name = "retrieval"
    drafts = FAMILIES
    n_ops = dict.fromkeys(FAMILIES, N_ASKED)
