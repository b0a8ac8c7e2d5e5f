r"""Extract the answer from a generation and compare it to the gold answer by mathematics, not by string.

    text -> boxes -> plain numbers? compare as fractions : ask the worker -> right, wrong or undecided
                     worker: spelling -> lists, words, units -> mathematics

A generation is data that nobody vouches for. It is bounded in length, never evaluated as Python, and whatever needs
sympy runs in a child process of bounded memory and CPU time. What counts as equal: docs/grading.md.

Versions of the rules (`GRADING_VERSION`):

- 1: As of the first release. Its verdicts: ``\{1,2\}`` = ``(1,2)``, ``AB`` = ``BA``, km = cm, ``1/2006!`` =
  ``1/2004!``; a comparison of over 2 s of wall time was wrong.
- 2: Sets, tuples and intervals, words, units, bases, upper and lower case of variables are told apart; numbers are
  equal if 350 digits of theirs are, not 50 after the point. Read are Unicode, degrees, repeating decimals, powers of
  ten, thousands in lists, alternatives, inequalities as intervals, finite sums, ratios, numerals, arguments without
  braces, ``\boxed 7``, the last box that is not empty anywhere in the text. Words that are surely no unit, formulas on
  the left of an equation, times, dates and words of lower-case letters are not dropped or computed with. Time is CPU
  time, and running out of it is no verdict.
- 3: Read are powers beside powers, ``x^2y^3``, which were refused; odd roots of negative numbers as real ones; letters
  as units where the other side has one of their kind; ``cm^{2}``, a modulus, ``5^{\text{th}}``, times with am or pm,
  cases, parts in words, ``No`` and ``DNE``. Told apart are ``6,1`` and ``x=1, y=6``, ``\angle ABC = 30`` and
  ``\angle BAC = 30``, ``p \land q`` and ``p \lor q``.
"""

from __future__ import annotations

import re
from typing import Literal

from kv_gym.errors import GradingError, UndecidedError
from kv_gym.problems.grading.boxes import MAX_ANSWER_CHARS, closing_brace, extract_answer
from kv_gym.problems.grading.numbers import plain_number, without_commas
from kv_gym.problems.grading.worker import CPU_LIMIT, WORKER

__all__ = [
    "GRADING_VERSION",
    "MAX_ANSWER_CHARS",
    "Graded",
    "GradingError",
    "UndecidedError",
    "closing_brace",
    "coverage",
    "extract_answer",
    "grade",
    "is_correct",
    "plain_number",
    "same_answer",
    "warm_up",
    "without_commas",
]

GRADING_VERSION = 3
"""Verdicts of different versions may differ; the changelog is above."""

Graded = Literal["answer", "coverage"]
"""How a generation is scored, see `grade`."""

# Python, not mathematics.
_REFUSED = re.compile(r"__|[\"'`]|(?<![\\A-Za-z])(?:import|lambda|eval|exec|getattr|globals|builtins)\b")


def grade(text: str, gold: str, graded: Graded) -> float:
    """Score a generation, 0 to 1: by `coverage`, or 1 for the right boxed `answer`.

    Raises:
        UndecidedError: Comparing took too long; there is no score.
    """
    return coverage(text, gold) if graded == "coverage" else float(is_correct(text, gold))


def coverage(text: str, gold: str) -> float:
    """Share of the items of a gold list, separated by commas, that the last box of `text` holds, 0 to 1.

    The order does not matter. Only as many items of the box count as the gold list has, so that listing everything
    does not help.
    """
    wanted = {item.strip() for item in gold.split(",")}
    found = [item.strip() for item in (extract_answer(text) or "").split(",")]
    return len(wanted & set(list(dict.fromkeys(found))[: len(wanted)])) / len(wanted)


def is_correct(text: str, gold: str) -> bool:
    """Say whether the boxed answer of a generation equals the gold answer. No box is a wrong answer.

    Raises:
        UndecidedError: Comparing took too long.
    """
    answer = extract_answer(text)
    return answer is not None and same_answer(answer, gold)


def same_answer(answer: str, gold: str, cpu_seconds: float = CPU_LIMIT) -> bool:
    r"""Say whether two answers mean the same; docs/grading.md says what does.

    Exact: 0.333 is not 1/3. A unit may be left out (``5\text{ cm}`` is ``5``). A percentage is its value and, where
    only one side has the sign, also its number: ``50\%`` is 0.5 and 50.

    Args:
        answer: What the LLM answered.
        gold: The gold answer; trusted.
        cpu_seconds: CPU time until the comparison is given up. Waiting for the worker to start (`warm_up`) or for
            other threads is not part of it.

    Raises:
        UndecidedError: The comparison took longer.
        GradingError: The gold answer is empty or too long, or the worker cannot start.
    """
    if not gold.strip() or len(gold) > MAX_ANSWER_CHARS:
        raise GradingError(f"gold answer of {len(gold)} characters: 1 to {MAX_ANSWER_CHARS} can be graded.")
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    if answer.strip() == gold.strip():
        return True
    left, right = plain_number(answer), plain_number(gold)
    if left is not None and right is not None:
        signs = "%" in answer or "%" in gold
        return left == right or (signs and plain_number(answer.rstrip("\\%")) == plain_number(gold.rstrip("\\%")))
    if not answer.strip() or _REFUSED.search(answer):
        return False
    return WORKER.ask(answer, gold, cpu_seconds)


def warm_up() -> None:
    """Start the grading worker now (about a second), so that the first comparison need not wait for it.

    Raises:
        GradingError: The worker cannot start.
    """
    WORKER.warm_up()
