"""Problem sets that somebody else wrote: rows with questions and answers, from a local `.jsonl` or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kv_gym.errors import ConfigError
from kv_gym.problems.base import Problem
from kv_gym.problems.grading import MAX_ANSWER_CHARS

INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
BOXED = "\\boxed"
FINAL_MARK = "####"  # GSM8K writes its answer behind this

Row = Mapping[str, Any]

# What a field may be called, first match wins.
QUESTION = ("problem", "question", "prompt")
ANSWER = ("answer", "gt_answer", "final_answer")
NAME = ("id", "unique_id", "task_id", "problem_idx")
FAMILY = ("subject", "type", "contest", "level")


class RecordedSource:
    """Problems from rows. All of them belong to the test split, unless a row has a field `split`.

    Args:
        name: Starts the problems' ids.
        rows: Each with a question and an answer, or a `problem`, a recorded `trace` and the `answer` it comes to.
    """

    def __init__(self, name: str, rows: Iterable[Row]) -> None:
        self.name = name
        self._splits: dict[str, list[Problem]] = {}
        for number, row in enumerate(rows):
            split = str(row.get("split", "test"))
            self._splits.setdefault(split, []).append(read_row(name, number, row))
        ids = [problem.id for problems in self._splits.values() for problem in problems]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ConfigError(f"problem set {name!r} has two problems {twice!r}. Give each row an id of its own.")
        every = [problem for problems in self._splits.values() for problem in problems]
        if not every:
            raise ConfigError(f"problem set {name!r} has no rows.")
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


def read_row(source: str, number: int, row: Row) -> Problem:
    """Make a problem of a row.

    Raises:
        ConfigError: It has no question or no answer.
    """
    name = f"{source}/{_first(row, NAME) or number}"
    question, answer = _first(row, QUESTION), _first(row, ANSWER)
    if not question or not answer:
        raise ConfigError(
            f"problem {name}: a row needs a question ({', '.join(QUESTION)}) and an answer ({', '.join(ANSWER)}); this "
            f"one has {', '.join(map(str, row)) or 'nothing'}."
        )
    answer = answer.rpartition(FINAL_MARK)[2].replace(",", "").strip() if FINAL_MARK in answer else answer.strip()
    if not 0 < len(answer) <= MAX_ANSWER_CHARS:
        raise ConfigError(f"problem {name}: an answer of {len(answer)} characters; 1 to {MAX_ANSWER_CHARS} are graded.")
    trace = str(row.get("trace") or "")
    if trace:
        right = row.get("is_correct")
        family = {"True": "correct", "False": "incorrect"}.get(str(right), "all")
    else:
        family = _first(row, FAMILY) or "all"
    return Problem(name, family, with_instruction(question), answer, trace=trace)


def with_instruction(question: str) -> str:
    """A question with the usual instruction, unless it speaks of the box itself."""
    return question if BOXED in question else question + INSTRUCTION


def _first(row: Row, names: Iterable[str]) -> str:
    """The first of these fields that is there, as text; "" if none is."""
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")


def read_file(path: Path) -> RecordedSource:
    """Read a local set, one JSON object a line.

    Raises:
        ConfigError: There is no such file, or a line is not a JSON object.
    """
    if not path.is_file():
        raise ConfigError(f"problems={str(path)!r}: there is no such file. Give a .jsonl with a problem a line.")
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:  # JSON, UTF-8, huge numbers, deep nesting
            raise ConfigError(f"{path}, line {number} is not JSON: {str(error)[:200]}.") from error
        if row is not None and not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is not a JSON object.")
        if row is not None:
            rows.append(row)
    return RecordedSource(path.stem, rows)
