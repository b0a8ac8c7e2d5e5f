"""AIME-format problems with written-out solutions, generated without end."""

from __future__ import annotations

import numpy as np

from kv_gym.problems.worked import (
    LETTERS,
    MODULUS,
    Draft,
    Drawer,
    MadeSource,
    boxed,
    draw_entries,
    draw_values,
    worked_line,
)

FLAGS = "ABCDEFGH"
FLAG_BELOW = 5


def graph(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """Definitions in shuffled order over two given values; what is the one behind the question mark?

    The solution first traces back which definitions are needed, then works them out. Each uses the value before it and
    any earlier one, so every value may be needed again.
    """
    names = [LETTERS[i] for i in rng.permutation(len(LETTERS))[: n_ops + 2]]
    values = draw_values(rng, names[:2], near)
    definitions = [f"{name}={values[name]:03}" for name in names[:2]]
    operations = []
    for i in range(2, n_ops + 2):
        left, right, op = names[i - 1], names[int(rng.integers(i - 1))], "+-"[int(rng.integers(2))]
        operations.append((names[i], left, op, right))
        definitions.append(f"{names[i]}={left}{op}{right}")
    shuffled = [definitions[i] for i in rng.permutation(len(definitions))]
    trace = "".join(reversed(names[2:]))
    lines = [trace, *(worked_line(*operation, values) for operation in operations), boxed(names[-1], values[names[-1]])]
    return f"graph {','.join(shuffled)}?{names[-1]}\n", "\n".join(lines), values[names[-1]]


def ledger(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """Three accounts and their entries: `m-b` takes the balance of b from that of m.

    Only the newest balance of each account is worth keeping.
    """
    names = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:3]]
    values = draw_values(rng, names, near)
    opening = ",".join(f"{name}={values[name]:03}" for name in names)
    entries = draw_entries(rng, names, n_ops)
    query = names[int(rng.integers(3))]
    lines = [worked_line(a, a, op, b, values) for a, op, b in entries]
    listed = ",".join("".join(entry) for entry in entries)
    return f"ledger {opening}:{listed}?{query}\n", "\n".join([*lines, boxed(query, values[query])]), values[query]


def lag(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """A sequence a, b, c, ... of which k terms are given, 2 to 5; after those, x[n] = x[n-1] + x[n-k].

    Every term is needed in the next line and once more k lines later, then never again.
    """
    k = int(rng.integers(2, 6))
    values = draw_values(rng, LETTERS[:k], near)
    given = ",".join(f"{name}={value:03}" for name, value in values.items())
    last = k + min(n_ops, len(LETTERS) - k)
    lines = [worked_line(LETTERS[n], LETTERS[n - 1], "+", LETTERS[n - k], values) for n in range(k, last)]
    query = LETTERS[last - 1]
    return f"lag {given}?{query}\n", "\n".join([*lines, boxed(query, values[query])]), values[query]


def collect(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """A sequence a, b, c, ... that grows by z from term to term; those whose last digit is below 5 are added up.

    They are flagged with capital letters on the way, and needed at the very end.
    """
    while True:
        values = draw_values(rng, "az", near)
        terms = [(values["a"] + i * values["z"]) % MODULUS for i in range(1, n_ops + 1)]
        n_flagged = sum(term % 10 < FLAG_BELOW for term in terms)
        if 3 <= n_flagged <= 5:
            break
    query = LETTERS[n_ops]
    prompt = f"collect a={values['a']:03},z={values['z']:03}?{query}\n"
    lines: list[str] = []
    flags: list[str] = []
    for n in range(1, n_ops + 1):
        line = worked_line(LETTERS[n], LETTERS[n - 1], "+", "z", values)
        value = values[LETTERS[n]]
        if value % 10 < FLAG_BELOW:
            flags.append(FLAGS[len(flags)])
            values[flags[-1]] = value
            line += f";{flags[-1]}={value:03}"
        lines.append(line)
    lines.append(f"sum {flags[0]}-{flags[-1]}")
    left = flags[0]
    for flag in flags[1:]:
        lines.append(worked_line("s", left, "+", flag, values))
        left = "s"
    lines.append(boxed("s", values["s"]))
    return prompt, "\n".join(lines), values["s"]


FAMILIES: dict[str, Drawer] = {
    "graph": graph,
    "ledger": ledger,
    "lag": lag,
    "collect": collect,
}
# Operations per problem, lowest and highest: solutions of about 300 to 700 tokens.
N_OPS = {"graph": (6, 8), "ledger": (7, 8), "lag": (8, 13), "collect": (7, 10)}


class AIMESource(MadeSource):
    """Answers are integers from 000 to 999, all sums are modulo 1000. Each family needs other parts of the past."""

    name = "aime"
    drafts = FAMILIES
    n_ops = N_OPS
