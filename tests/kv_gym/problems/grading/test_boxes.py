"""Boxes in a generation, and the front: what is asked of the worker and what is not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from kv_gym.errors import GradingError
from kv_gym.problems import grading
from kv_gym.problems.grading import (
    GRADING_VERSION,
    MAX_ANSWER_CHARS,
    coverage,
    extract_answer,
    grade,
    is_correct,
    plain_number,
    same_answer,
)
from kv_gym.problems.grading.worker import WORKER

# --- Extracting

# What follows a box without braces and belongs to the answer; where that ends, nobody knows.
MORE = [
    " / 6",
    "/x",
    "!",
    "+6",
    " + 6",
    "-6",
    " - 6",
    "x",
    "^2",
    " ^2",
    "*6",
    " = x",
    r"\cdot 6",
    r" \sqrt 2",
    "(6)",
    "_6",
]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ \sqrt{\frac{a}{b}} } }", r"\sqrt{\frac{a}{b}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed {7}", "7"),
        (r"\boxed 7", "7"),
        (r"so \boxed -42.", "-42"),
        (r"\boxed42", "42"),
        (r"\boxed 1,234 in all", "1,234"),
        (r"\boxed .5", ".5"),
        (r"so \boxed{3}, no: \boxed 50\% of it", r"50\%"),
        (r"$\boxed 7$ it is", "7"),
        (r"\[\boxed 7\] it is", "7"),
        (r"\(\boxed 7\)", "7"),
        (r"\boxed 7\text{ cm}", "7"),
        (r"\boxed 7</think>", "7"),
        (r"**\boxed 7**", "7"),
        ("\\boxed 7\nHence", "7"),
        ("\\boxed 7\n- 5 is not", "7"),
        (r"\boxed 7 \blacksquare", "7"),
        (r"\boxed 7 - that is all", "7"),
        (r"\boxed x", "x"),
        *((rf"\boxed{{5}}, or \boxed 5{more}", None) for more in MORE),
        (r"\boxed x+1", None),
        (r"\boxed\frac{1}{2}x", None),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed\text{(A)} it is", r"\text{(A)}"),
        (r"\boxed{7} then \boxed{}", "7"),
        (r"\boxed{7} then \boxed{ } and \boxed{\text{ }}", "7"),
        (r"\boxed{7} then \boxed alone", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{}", ""),
        ("the answer is 42", None),
        (r"\boxed{42", None),
        (r"\boxed{1} and \boxed{\frac{1}{2}", None),
        ("", None),
    ],
)
def test_extract_answer_reads_the_last_closed_box(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_extract_answer_looks_at_all_of_the_text() -> None:
    assert extract_answer(r"\boxed{1}" + "x" * 1_000_000) == "1"


def test_extract_answer_refuses_a_long_box() -> None:
    longest = "1" * MAX_ANSWER_CHARS
    assert extract_answer(rf"\boxed{{{longest}}}") == longest
    assert extract_answer(rf"\boxed{{{longest}1}}") is None


# --- Plain numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", Fraction(7)),
        ("-0.50", Fraction(-1, 2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        (r"50\%", Fraction(1, 2)),
        (r"\frac{1}{2}3", None),
        ("1/0", None),
        ("10 4", None),
        ("1 -1/2", None),
        ("1" * 19, None),
        ("x", None),
        ("1e5", None),
        ("", None),
    ],
)
def test_plain_number_is_exact(text: str, value: Fraction | None) -> None:
    assert plain_number(text) == value


def test_same_answer_compares_plain_numbers_without_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORKER, "ask", lambda *_: pytest.fail("asked the worker"))
    assert same_answer("042", "42") and same_answer(" 42 ", "042") and not same_answer("042", "043")
    assert same_answer(r"\dfrac{1}{2}", "0.5")
    assert not same_answer("14", "4")
    assert same_answer(r"50\%", "50") and same_answer(r"50\%", "0.5") and not same_answer(r"50\%", "5")


def test_an_integer_is_graded_in_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORKER, "ask", lambda *_: pytest.fail("asked the worker"))
    texts = [rf"hence \boxed{{{n:03}}}" for n in range(1000)]
    start = time.process_time()
    assert [is_correct(text, f"{n:03}") for n, text in enumerate(texts)] == [True] * 1000
    assert not any(is_correct(text, f"{(n + 1) % 1000:03}") for n, text in enumerate(texts))
    assert time.process_time() - start < 0.6  # 0.1 s; a process takes 0.2 ms for each


# --- Hostile text


def seconds(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        r"\boxed{" * 200_000,
        r"\boxed{" + "4" * 10_000 + "}",
        r"\boxed{" + "{" * 10_000 + "4" + "}" * 10_000 + "}",
        r"\boxed{" + "{" * 10_000,
        "\\" * 1_000_000,
        r"\boxed" + " " * 1_000_000,
    ],
    ids=["long", "boxes", "long-box", "deep", "open", "backslashes", "spaces"],
)
def test_huge_input_scores_0_at_once(text: str) -> None:
    assert seconds(lambda: is_correct(text, "4")) < 0.5
    assert not is_correct(text, "4")
    assert seconds(lambda: same_answer(text, "4")) < 0.5
    assert not same_answer(text, "4")


# --- The front


def test_is_correct_needs_a_box_and_takes_the_last() -> None:
    assert not is_correct("42", "42")
    assert not is_correct(r"\boxed{42}, or rather \boxed{41}", "42")
    assert is_correct(r"\boxed{41}, or rather \boxed{42}", "42")
    assert is_correct(r"\boxed{42}" + " and so on" * 1000 + r"\boxed{}", "42")


@pytest.mark.parametrize("gold", ["", "  ", "1" * (MAX_ANSWER_CHARS + 1)])
def test_same_answer_rejects_a_gold_answer_it_cannot_grade(gold: str) -> None:
    with pytest.raises(GradingError, match="1 to 200 can be graded"):
        same_answer("1", gold)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (r"\boxed{a=1,b=2,c=3,d=4}", 1.0),
        (r"\boxed{ d=4, c=3,b=2 ,a=1}", 1.0),  # the order does not matter
        (r"\boxed{a=1,a=1,b=2}", 0.5),  # twice the same is once
        (r"\boxed{a=1,b=9,x=2,y=3,c=3,d=4}", 0.25),  # only as many as asked for count: listing all does not help
        (r"a=1,b=2,c=3,d=4", 0.0),
        (r"\boxed{}", 0.0),
    ],
)
def test_coverage_counts_items_of_the_gold_list(text, share):
    assert coverage(text, "a=1,b=2,c=3,d=4") == share
    assert grade(text, "a=1,b=2,c=3,d=4", "coverage") == share


def test_grade_of_an_answer_is_all_or_nothing():
    assert grade(r"\boxed{1/2}", "0.5", "answer") == 1.0 and grade(r"\boxed{1/2}", "0.6", "answer") == 0.0


def test_the_version_has_a_line_in_the_changelog() -> None:
    page = Path(__file__).parents[4] / "docs" / "grading.md"
    for text in (grading.__doc__ or "", page.read_text()):
        assert max(map(int, re.findall(r"^- (\d+): ", text, re.MULTILINE))) == GRADING_VERSION
