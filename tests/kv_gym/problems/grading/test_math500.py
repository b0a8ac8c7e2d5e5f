"""The 500 gold answers of MATH-500: themselves, rewritten so that they mean the same, and wrong neighbours."""

# ruff: noqa: RUF001  (look-alikes are what some rewritings write)

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from kv_gym.problems.grading import is_correct, plain_number, same_answer, warm_up
from kv_gym.problems.grading.worker import WORKER

PATH = Path(__file__).parents[5] / "shared" / "data" / "problems" / "math500.jsonl"

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason="the recorded sets are not part of the repository")
MEDIAN = 0.020  # seconds of one grade; 0.2 ms, and 4 ms where the worker is asked
Rewriting = Callable[[str], str]


@pytest.fixture(scope="module")
def golds() -> list[str]:
    warm_up()
    return [json.loads(line)["answer"] for line in PATH.read_text().splitlines()]


def replace(pattern: str, replacement: str) -> Rewriting:
    return lambda gold: re.sub(pattern, replacement, gold)


def decimals(gold: str) -> str:
    r"""``\frac{17}{50}`` as ``0.34``."""
    value = plain_number(gold) if "\\" in gold else None
    if value is None or 10**6 % value.denominator:
        return gold
    return f"{float(value):.6f}".rstrip("0").removesuffix(".")


def thousands(gold: str) -> str:
    return f"{int(gold):,}" if re.fullmatch(r"[1-9]\d{3,}", gold) else gold


def named(gold: str) -> str:
    return gold if re.search(r"=|\\in\b|\\text\{", gold) else f"x = {gold}"


def named_behind(gold: str) -> str:
    return named(gold) if named(gold) == gold or "x" in gold else f"{gold} = x"


def wide(gold: str) -> str:
    return gold.translate({ord("0") + i: ord("\N{FULLWIDTH DIGIT ZERO}") + i for i in range(10)})


def symbols(gold: str) -> str:
    for written, symbol in {"-": "\N{MINUS SIGN}", "\\pi": "π", "^\\circ": "°", "\\infty": "∞", "\\cup": "∪"}.items():
        gold = gold.replace(written, symbol)
    return gold


REWRITINGS: dict[str, Rewriting] = {
    "itself": str,
    "dfrac": replace(r"\\frac", r"\\dfrac"),
    "tfrac": replace(r"\\d?frac", r"\\tfrac"),
    "left and right": replace(r"(?<!\\left)([([])(.*)(?<!\\right)([)\]])", r"\\left\1\2\\right\3"),
    "no left and right": replace(r"\\left|\\right", ""),
    "spaces": replace(r"([-+]|,(?!\d{3}|\\!)|^|$)", r" \1 "),
    "box": lambda gold: rf"\boxed{{{gold}}}",
    "full stop": lambda gold: f"{gold}.",
    "dollars": lambda gold: f"${gold}$",
    "brackets": lambda gold: rf"\({gold}\)",
    "display": lambda gold: rf"\displaystyle {gold}",
    "braces": lambda gold: f"{{{gold}}}",
    "name": named,
    "name behind": named_behind,
    "decimals": decimals,
    "thousands": thousands,
    "wide digits": wide,
    "symbols": symbols,
    "other matrix": replace("pmatrix", "bmatrix"),
    "bare words": replace(r"\\text\{\(?([A-Za-z]+)\)?\}$", r"\1"),
    "slash": replace(r"(?<![\d ])\\d?frac\{([^{}]*)\}\{(\d+)\}", r"(\1)/\2"),
    "no unit": replace(r"(?<=\d)(\^\\circ| ?\\(text|mbox)\{.*\}(\^2)?)$", ""),
    "bold": replace(r"^(-?\d+)$", r"\\mathbf{\1}"),
    "zeros": replace(r"^(-?\d+)$", r"\1.00"),
}


@pytest.mark.parametrize("name", REWRITINGS)
def test_the_gold_answer_is_right_however_it_is_written(name: str, golds: list[str]) -> None:
    written = {REWRITINGS[name](gold): gold for gold in golds}
    assert name == "itself" or any(answer != gold for answer, gold in written.items())
    assert [(answer, gold) for answer, gold in written.items() if not same_answer(answer, gold)] == []


def test_the_worker_finds_each_gold_answer_right(golds: list[str]) -> None:
    """Without the short cuts for equal texts: the gold answer stands in another bracket."""
    assert [gold for gold in golds if not WORKER.ask(rf"\boxed{{{gold}}}", gold)] == []


def number(change: Callable[[int], int], last: bool) -> Rewriting:
    """Change the first or the last number."""

    def rewritten(gold: str) -> str:
        found = list(re.finditer(r"\d+", gold))
        place = found[-1 if last else 0] if found else None
        return gold[: place.start()] + str(change(int(place[0]))) + gold[place.end() :] if place else gold

    return rewritten


NEIGHBOURS: dict[str, Rewriting] = {
    "last number + 1": number(lambda n: n + 1, last=True),
    "first number + 1": number(lambda n: n + 1, last=False),
    "last number + 1000": number(lambda n: n + 1000, last=True),
    "other sign": lambda gold: gold[1:] if gold.startswith("-") else gold if plain_number(gold) == 0 else f"-{gold}",
    "one more": lambda gold: f"{gold}, 17",
    "plus one": lambda gold: f"{gold}+1",
    "a digit more": replace(r"([0-9])$", r"\g<1>1"),
    "a digit before": replace("^([0-9])", r"1\1"),
    "a tenth": lambda gold: rf"\frac{{{gold}}}{{10}}" if gold.isdigit() and gold != "0" else gold,
    "nearly": lambda gold: f"{gold}.0001" if gold.isdigit() else gold,
    "other brackets": replace(r"^\(([^()]*)\)$", r"[\1]"),
    "a set": replace(r"^\((.*,.*)\)$", r"\\{\1\\}"),
    "reversed": replace(r"^\(([^(),]*),([^(),]*)\)$", r"(\2,\1)"),
    "upside down": replace(r"^\\d?frac\{(.*)\}\{(.*)\}$", r"\\frac{\2}{\1}"),
    "other base": replace(r"^(\d+_)\{?\d\}?$", r"\g<1>9"),
    "other unit": replace(r"\\(?:text|mbox)\{ ?(?:cents|cm|inches|degrees)\}", r"\\text{ km}"),
    "other choice": replace(r"\\text\{\([A-E]\)\}", r"\\text{(D)}"),
    "shuffled word": replace(r"\\text\{([A-Za-z])([A-Za-z]+)\}", r"\\text{\2\1}"),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_no_neighbour_of_the_gold_answer_is_right(name: str, golds: list[str]) -> None:
    pairs = {(NEIGHBOURS[name](gold), gold) for gold in golds}
    wrong = [(answer, gold) for answer, gold in pairs if answer != gold]
    assert wrong
    assert [(answer, gold) for answer, gold in wrong if same_answer(answer, gold)] == []


def test_a_grade_takes_milliseconds(golds: list[str]) -> None:
    times: list[float] = []
    for gold in golds:
        start = time.perf_counter()
        is_correct(rf"So the answer is \boxed{{{gold} }}.", gold)
        WORKER.ask(REWRITINGS["dfrac"](gold) + " ", gold)
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < MEDIAN


def test_the_rewritings_are_what_they_say() -> None:
    assert decimals(r"\dfrac{17}{50}") == "0.34" and decimals(r"\frac{1}{3}") == r"\frac{1}{3}"
    assert plain_number(decimals(r"\frac{9}{64}")) == Fraction(9, 64)
    assert thousands("12345") == "12,345" and named_behind("7") == "7 = x" and wide("12") == "１２"
    assert NEIGHBOURS["last number + 1"](r"\frac{1}{2}") == r"\frac{1}{3}"
