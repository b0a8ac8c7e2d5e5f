"""AIME-format problems with written-out solutions, generated without end.

Answers are integers from 000 to 999, boxed with three digits; all arithmetic is modulo 1000. Each family asks the
cache for something else:

- ``graph``: definitions in shuffled order. The chain of needed definitions is traced back first, then worked forward;
  any earlier value may be needed again.
- ``ledger``: accounts that are changed again and again. Only the newest balance of each is worth keeping.
- ``lag``: x[n] = x[n-1] + x[n-k]. Every value is needed once more, k lines later, then never again.
- ``collect``: terms of a progression whose last digit is below 5 get a capital letter; at the end those from far back
  are added up.

How a line of a solution is worked out: `kv_gym.problems.worked`.
"""

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
    """A chain of definitions over two given values; each uses the one before it and any earlier one."""
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
    """Three accounts; each entry adds one account to another or takes it away."""
    names = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:3]]
    values = draw_values(rng, names, near)
    opening = ",".join(f"{name}={values[name]:03}" for name in names)
    entries = draw_entries(rng, names, n_ops)
    query = names[int(rng.integers(3))]
    lines = [worked_line(a, a, op, b, values) for a, op, b in entries]
    listed = ",".join("".join(entry) for entry in entries)
    return f"ledger {opening}:{listed}?{query}\n", "\n".join([*lines, boxed(query, values[query])]), values[query]


def lag(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """x[n] = x[n-1] + x[n-k] from k given values, k from 2 to 5."""
    k = int(rng.integers(2, 6))
    values = draw_values(rng, LETTERS[:k], near)
    given = ",".join(f"{name}={value:03}" for name, value in values.items())
    last = k + min(n_ops, len(LETTERS) - k)
    lines = [worked_line(LETTERS[n], LETTERS[n - 1], "+", LETTERS[n - k], values) for n in range(k, last)]
    query = LETTERS[last - 1]
    return f"lag {given}?{query}\n", "\n".join([*lines, boxed(query, values[query])]), values[query]


def collect(rng: np.random.Generator, n_ops: int, near: bool) -> Draft:
    """Terms of a + i*z; those whose last digit is below 5 are flagged A, B, ... and added up at the end."""
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
    """The four families in turn."""

    name = "aime"
    drafts = FAMILIES
    n_ops = N_OPS
