"""A long document of facts, of which only the salient ones belong into the summary; graded by coverage.

The summary lists the latest fact first because a causal LLM can find the salient fact before a given one, as it passed
both.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kv_gym.problems.grading import Graded
from kv_gym.problems.worked import KEYS, LETTERS, MODULUS, Draft, Drawer, MadeSource

OTHERS = 3
"""Facts that do not matter, for each that does."""


def _document(kind: str, start: str, facts: list[tuple[str, int, bool]], mark: str) -> Draft:
    """Write the document and its summary from (key, value, salient) in order."""
    written = ",".join(f"{mark if salient else ''}{key}={value:03}" for key, value, salient in facts)
    summary = ",".join(f"{key}={value:03}" for key, value, salient in reversed(facts) if salient)
    return f"{kind} {start}{written}?\n", f"\\boxed{{{summary}}}", summary


def _facts(rng: np.random.Generator, salient: list[str], others: list[str], near: bool) -> list[tuple[str, int, bool]]:
    """Draw values and an order; with `near`, all values lie close together."""
    base, spread = int(rng.integers(MODULUS)), 20 if near else MODULUS
    keys = [(key, True) for key in salient] + [(key, False) for key in others]
    return [(keys[i][0], (base + int(rng.integers(spread))) % MODULUS, keys[i][1]) for i in rng.permutation(len(keys))]


def marked(rng: np.random.Generator, n_salient: int, near: bool) -> Draft:
    """Salient facts begin with an exclamation mark."""
    drawn = [KEYS[i] for i in rng.permutation(len(KEYS))[: (1 + OTHERS) * n_salient]]
    return _document("marked", "", _facts(rng, drawn[:n_salient], drawn[n_salient:], near), "!")


def topic(rng: np.random.Generator, n_salient: int, near: bool) -> Draft:
    """Salient are the facts whose key begins with the letter in front of the document."""
    letters = [LETTERS[i] for i in rng.permutation(len(LETTERS))]
    ours = [letters[0] + other for other in letters[1:]]
    theirs = [first + other for first in letters[1:] for other in letters if first != other]
    salient = [ours[i] for i in rng.permutation(len(ours))[:n_salient]]
    others = [theirs[i] for i in rng.permutation(len(theirs))[: OTHERS * n_salient]]
    return _document("topic", f"{letters[0]}:", _facts(rng, salient, others, near), "")


FAMILIES: dict[str, Drawer] = {"marked": marked, "topic": topic}
N_SALIENT = (9, 12)
"""Salient facts per document, lowest and highest: texts of about 320 to 480 tokens."""


class SummarySource(MadeSource):
    """A document of facts, most of which do not matter. The salient ones are listed in the box, the latest first.

    The document is longer than the cache, so most of it is read while slots are evicted. The score is the share of the
    salient facts that were listed.
    """

    name = "summary"
    drafts = FAMILIES
    n_ops = dict.fromkeys(FAMILIES, N_SALIENT)
    graded: ClassVar[Graded] = "coverage"
    notation: ClassVar[str] = ""
