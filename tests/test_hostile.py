"""Hostile inputs: each is refused with a sentence, or taken and right; `docs/robustness.md` has the current table."""

from __future__ import annotations

import hostile
import pytest


@pytest.fixture(scope="module")
def found() -> list[tuple[hostile.Case, str]]:
    with hostile.all_cases() as cases:
        return [(case, hostile.outcome(case)) for case in cases]


def test_nothing_is_wrong_and_nothing_crashes(found: list[tuple[hostile.Case, str]]) -> None:
    assert len(found) >= 300
    assert [(case.kind, case.name, result) for case, result in found if result not in ("refused", "right")] == []


def test_the_table_in_the_docs_is_the_current_one(found: list[tuple[hostile.Case, str]]) -> None:
    assert hostile.table(found) in hostile.DOCS.read_text()


def test_each_outcome_is_told_apart() -> None:
    def crash() -> None:
        raise KeyError("x")

    assert hostile.outcome(hostile.Case("k", "n", crash)).startswith("crashed: KeyError")
    assert hostile.outcome(hostile.Case("k", "n", lambda: 3)) == "wrong"
    assert hostile.outcome(hostile.Case("k", "n", lambda: 3, lambda found: found == 4)) == "wrong"
    assert hostile.outcome(hostile.Case("k", "n", lambda: 3, lambda found: found == 3)) == "right"
