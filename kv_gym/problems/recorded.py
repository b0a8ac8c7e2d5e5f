"""Problem sets that somebody else wrote: rows with questions and answers, from a local file or elsewhere.

file -> numbered rows (formats) -> fields of each (fields) -> problems, rows left out, rows that are wrong (Survey)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kv_gym.errors import ConfigError, ProblemFileError
from kv_gym.problems.base import SPLIT_IDS, Problem
from kv_gym.problems.fields import (
    ANSWER,
    FAMILY,
    NAME,
    QUESTION,
    TRACE,
    Fields,
    Reading,
    described,
    is_known,
    understand,
    whole,
)
from kv_gym.problems.formats import Row, numbered_rows, stem, unit
from kv_gym.problems.grading import MAX_ANSWER_CHARS

INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
BOXED = "\\boxed"
NO_ANSWER = "without an answer that can be graded"
LONG_ANSWER = f"with an answer of more than {MAX_ANSWER_CHARS} characters, which cannot be graded"
NO_TRACE = "without a recorded trace"
SHOWN_PLACES = 5  # of rows that are left out for one reason
MOST_UNUSED = 50  # columns that are told as not used: each row may have others

logger = logging.getLogger(__name__)


@dataclass
class Survey:
    """Rows as they were understood.

    Attributes:
        name: Starts the problems' ids.
        traces: Whether each problem must have a trace, from whatever field may hold one; rows without one are left out.
            Otherwise only what is in a field `trace` is one, and it may be missing.
        unit: What a row is in its file: line, item or row.
        n_rows: Rows looked at.
        problems: Of each split, in the order of the rows.
        columns: What became `problem`, `answer` and `trace`, was `passed over` as an answer, and is `not used` (the
            first `MOST_UNUSED`): rows by column.
        left_out: Numbers of the rows that are no problems, by what they have or lack.
        wrong: (Number, message) of the rows that cannot be read, where `strict` is off.
        seen: Columns of the first row, for people.
        numbers: Number of the row of each problem, by its id.
    """

    name: str
    traces: bool = False
    unit: str = "row"
    n_rows: int = 0
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    seen: str = ""
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, row: Row) -> None:
        """Look at the next row.

        Raises:
            ProblemFileError: It cannot be read; the message does not say where it is.
        """
        place_in_set = self.n_rows
        self.n_rows += 1
        self.seen = self.seen or named(row)
        fields = Fields(row)
        reading = understand(fields, self.traces)
        self._count(reading)
        if not reading.question.text:
            raise ProblemFileError(f"a row needs a question ({', '.join(QUESTION)}); this one has {named(row)}.")
        split = _split(fields)
        problem_id = f"{self.name}/{fields.label(NAME) or place_in_set}"
        reason = _lack(reading, self.traces)
        if reason:
            self.left_out.setdefault(reason, []).append(number)
            return
        problem = _problem(problem_id, fields, reading)  # before anything is noted of it: it may be damaged
        first = self.numbers.setdefault(problem_id, number)
        if first != number:
            raise ProblemFileError(
                f"problem set {self.name!r} has two problems {problem_id!r}, this one and {self.unit} {first}. Give "
                "each row an id of its own."
            )
        self.problems.setdefault(split, []).append(problem)

    def _count(self, reading: Reading) -> None:
        for what, found in (("problem", reading.question), ("answer", reading.answer), ("trace", reading.trace)):
            if found.text:
                self.columns.setdefault(what, Counter())[found.column] += 1
        for column in reading.passed_over:
            self.columns.setdefault("passed over", Counter())[column] += 1
        for column in reading.unused:
            unused = self.columns.setdefault("not used", Counter())
            if column in unused or len(unused) < MOST_UNUSED:
                unused[column] += 1

    def reasons(self) -> str:
        """Which rows are left out and why, as half a sentence; "" if none is."""
        return "; ".join(
            f"{len(numbers):,} {reason} ({self.unit}{'s' * (len(numbers) > 1)} {shown(numbers)})"
            for reason, numbers in self.left_out.items()
        )


def shown(numbers: list[int]) -> str:
    """The first of some numbers: `1, 2, 3, ...`."""
    return ", ".join(map(str, numbers[:SHOWN_PLACES])) + (", ..." if len(numbers) > SHOWN_PLACES else "")


def named(row: Row) -> str:
    """The columns of a row, for people; a stranger's names may hold anything."""
    return ", ".join(map(repr, row))[:300] or "nothing"


def _split(fields: Fields) -> str:
    found = next((value for *_, value in fields.there(("split",))), "test")
    split = found.strip().lower() if isinstance(found, str) else ""
    if split not in SPLIT_IDS:
        said = repr(whole(found, "split")[:100]) if isinstance(found, str) else described(found)
        raise ProblemFileError(
            f"split is {said}, which no environment plays. Use {', '.join(SPLIT_IDS)}, or drop the field: all rows "
            "are then of the test split."
        )
    return split


def _lack(reading: Reading, traces: bool) -> str:
    """Why a row is left out; "" if it is a problem."""
    if traces and not reading.trace.text:
        return NO_TRACE
    if not reading.answer.text:
        return NO_ANSWER
    return LONG_ANSWER if len(reading.answer.text) > MAX_ANSWER_CHARS else ""


def _problem(name: str, fields: Fields, reading: Reading) -> Problem:
    question, trace = reading.question.text, reading.trace.text
    if trace:
        family = {"true": "correct", "false": "incorrect"}.get(fields.label(("is_correct",)).lower(), "all")
    else:
        family = fields.label(FAMILY) or "all"
    return Problem(name, family, with_instruction(question), reading.answer.text, trace=trace)


class RecordedSource:
    """Problems from rows. All of them belong to the test split, unless a row has a field `split`.

    Args:
        survey: The rows, looked at.

    Raises:
        ProblemFileError: None of them is a problem.
    """

    def __init__(self, survey: Survey) -> None:
        self.name, self._splits = survey.name, survey.problems
        every = [problem for problems in self._splits.values() for problem in problems]
        if not every:
            raise ProblemFileError(none_left(survey))
        if survey.left_out:
            logger.warning(
                "problem set %r: %d of %d rows are left out: %s.", survey.name, survey.n_rows - len(every),
                survey.n_rows, survey.reasons(),
            )  # fmt: skip
        self.families = tuple(sorted({problem.family for problem in every}))

    def size(self, split: str) -> int:
        """Number of problems of a split.

        Raises:
            ConfigError: The set has no such split.
        """
        if split not in self._splits:
            raise ConfigError(
                f"problem set {self.name!r} has no split {split!r}, only {', '.join(sorted(self._splits))}. Choose one "
                'of those, or give its rows a field "split".'
            )
        return len(self._splits[split])

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`; there is one set, so `seed` changes nothing."""
        size = self.size(split)
        if not 0 <= index < size:
            raise ConfigError(f"problem {index} of {self.name!r}: its {split} split has 0 to {size - 1}.")
        return self._splits[split][index]


def none_left(survey: Survey) -> str:
    """Why a set has no problems, and what would make one."""
    if not survey.n_rows:
        return f"problem set {survey.name!r} has no rows."
    fixes = {
        NO_ANSWER: f"An answer is a text or number in one of {', '.join(ANSWER)}.",
        LONG_ANSWER: "Put the answer alone into a field `answer`.",
        NO_TRACE: f"A trace is a text in one of {', '.join(TRACE)}; without one, take an environment in which the LLM "
        "writes by itself.",
    }
    return (
        f"problem set {survey.name!r}: none of its rows can be played: {survey.reasons()}. The "
        f"first row has {survey.seen}. " + " ".join(fixes[reason] for reason in survey.left_out)
    )


def survey_rows(name: str, rows: Iterable[Row], traces: bool = False) -> Survey:
    """Look at rows from elsewhere.

    Raises:
        ProblemFileError: A row cannot be read.
    """
    survey = Survey(name, traces)
    _look(survey, enumerate(rows, 1), f"problem set {name!r}", strict=True)
    return survey


def with_instruction(question: str) -> str:
    """A question with the usual instruction, unless it speaks of the box itself."""
    return question if BOXED in question else question + INSTRUCTION


def survey_file(path: Path, traces: bool = False, strict: bool = True) -> Survey:
    """Look at all rows of a local set.

    Args:
        path: One of the formats of `kv_gym.problems.formats`.
        traces: As for `Survey`.
        strict: Whether a row that cannot be read ends it; otherwise it is noted.

    Raises:
        ProblemFileError: There is no such file, it is damaged, or (if strict) a row cannot be read.
    """
    survey = Survey(stem(path), traces, unit(path))
    _look(survey, numbered_rows(path, is_known), str(path), strict)
    return survey


def _look(survey: Survey, rows: Iterable[tuple[int, Row]], where: str, strict: bool) -> None:
    for number, row in rows:
        try:
            survey.add(number, row)
        except ProblemFileError as error:
            if strict:
                raise ProblemFileError(f"{where}, {survey.unit} {number}: {error}") from error
            survey.wrong.append((number, str(error)))


def read_file(path: Path, traces: bool = False) -> RecordedSource:
    """Read a local set.

    Raises:
        ProblemFileError: As `survey_file`; or no row is a problem.
    """
    return RecordedSource(survey_file(path, traces))
