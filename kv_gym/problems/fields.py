r"""What the fields of a row mean: question, gold answer and recorded reasoning, under the names that people give them.

Which field it is goes by the orders below, for each row by itself: the first that is there and not empty. Capitals,
spaces and hyphens in names do not matter. An answer is what the last ``\boxed{}`` holds, else what stands behind
``####``, else the text; of the fields in `SOLUTIONS` only a box counts, because they are whole texts.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kv_gym.errors import ProblemFileError, half_character
from kv_gym.problems.conversations import has_marks, last_exchange, reply, without_marks
from kv_gym.problems.formats import Row
from kv_gym.problems.grading import MAX_ANSWER_CHARS, extract_answer, without_commas

CONVERSATIONS = ("messages", "conversations")
QUESTION = ("problem", "question", "prompt", "input", "instruction", *CONVERSATIONS)
CHOICES = ("choices", "options")
SOLUTIONS = ("solution", *CONVERSATIONS)
ANSWER = (
    "answer", "gt_answer", "final_answer", "expected_answer", "ground_truth", "reward_model.ground_truth", "target",
    "output", *SOLUTIONS,
)  # fmt: skip
RECORDINGS = ("reasoning_content", "reasoning", "generation", "generations", "generated_solution")
TEXTS = ("completion", "response", "output", *CONVERSATIONS, "solution")
"""Texts that may be a chain of thought: those are that mark a thought, or are too long for an answer."""
TRACE = ("trace", *RECORDINGS, *TEXTS)
NAME = ("id", "unique_id", "task_id", "problem_idx")
FAMILY = ("subject", "type", "contest", "level")
LABELS = (*NAME, *FAMILY, "split", "is_correct")
KNOWN = frozenset((*QUESTION, *CHOICES, *ANSWER, "reward_model", *TRACE, *LABELS))

FINAL_MARK = "####"  # GSM8K writes its answer behind this
AS_TEXT = re.compile(r"\[\s*(?:\{\s*)?(['\"]).*\]", re.DOTALL)  # a list of texts or objects, as .csv holds it
NO_VALUE = ("nan", "NaN", "None", "null", "<NA>", "NaT")  # what programs write for a value that is missing
MAX_LABEL_CHARS = 200  # of ids, families and names of columns; longer ones are none


@dataclass(frozen=True)
class Found:
    """What a field gave.

    Attributes:
        text: Its text; "" if no field has one.
        name: Name it is known by, in lower case; "" if none.
        column: Its name in the row.
    """

    text: str = ""
    name: str = ""
    column: str = ""


@dataclass(frozen=True)
class Reading:
    """A row as it was understood.

    Attributes:
        question: What is asked.
        answer: What is right; of a recording, what it comes to. Of any length.
        trace: Recorded reasoning.
        passed_over: Columns that could be the answer and come later in the order.
        unused: Columns that nothing was read from, and that hold neither an answer nor a trace.
    """

    question: Found
    answer: Found
    trace: Found
    passed_over: tuple[str, ...]
    unused: tuple[str, ...]


class Fields:
    """The fields of a row by the names that they are known by.

    Raises:
        ProblemFileError: Two columns have one name and say different things.
    """

    def __init__(self, row: Row) -> None:
        self._known: dict[str, tuple[str, Any]] = {}
        self.strange: list[str] = []
        for column, value in row.items():
            if len(column) > MAX_LABEL_CHARS:
                continue  # none of ours
            name, column = known_name(column), column.strip()
            if name not in KNOWN:
                self.strange.append(column)
            other = self._known.get(name)
            if other is not None and not _missing(other[1]) and not _missing(value) and other[1] != value:
                raise ProblemFileError(f"{other[0]!r} and {column!r} are one name and say different things. Drop one.")
            if other is None or _missing(other[1]):
                self._known[name] = (column, value)
        column, model = self._known.get("reward_model", ("", None))
        model = _object_of(model) if isinstance(model, str) else model
        if isinstance(model, dict):
            self._known["reward_model.ground_truth"] = (f"{column}.ground_truth", model.get("ground_truth"))

    def __getitem__(self, name: str) -> Any:
        """Value of a field; None if there is none."""
        return self._known.get(name, ("", None))[1]

    def there(self, names: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
        """(Name, column, value) of those of some fields that are there and not empty."""
        for name in names:
            column, value = self._known.get(name, ("", None))
            if not _missing(value):
                yield name, column, value

    def label(self, names: tuple[str, ...]) -> str:
        """The first of some fields that is a short text or a finite number, as text; "" if none is."""
        for _, column, value in self.there(names):
            if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
                text = whole(str(value), column)
                if len(text) <= MAX_LABEL_CHARS:
                    return text
        return ""


@functools.lru_cache(1024)
def known_name(column: str) -> str:
    """`groundTruth`, `Ground Truth` and `GROUND-TRUTH` are `ground_truth`."""
    return re.sub(r"[\s-]", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip())).lower()


def is_known(column: str) -> bool:
    """Whether anything is read from a column of this name."""
    return len(column) <= MAX_LABEL_CHARS and known_name(column) in KNOWN


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, list) and not value)


def understand(fields: Fields, traces: bool) -> Reading:
    """Find question, answer and trace.

    Args:
        fields: Of one row.
        traces: Whether a trace is looked for in every field that may hold one; otherwise it is in `trace` or nowhere.

    Raises:
        ProblemFileError: A field that counts holds what cannot be asked, graded or read.
    """
    answers = [found for found in _answers(fields) if found.text]
    trace = _trace(fields, TRACE if traces else TRACE[:1])
    box = boxed(trace.text)
    if box and (trace.name != "trace" or not answers):  # beside a `trace`, an answer is what it comes to
        answers.insert(0, Found(box, trace.name, f"{trace.column} (last box)"))
    question, answer = _question(fields), answers[0] if answers else Found()
    _refuse_choices(fields, question.text, answer)
    return Reading(question, answer, trace, tuple(other.column for other in answers[1:]), _unused(fields, question))


def _unused(fields: Fields, question: Found) -> tuple[str, ...]:
    """Columns of no name that we know, other questions, and choices."""
    used = {question.name, *CONVERSATIONS, *TRACE, *ANSWER} | ({"instruction"} if question.name == "input" else set())
    other = (column for name, column, _ in fields.there((*QUESTION, *CHOICES)) if name not in used)
    return (*other, *fields.strange)


# --- Question ----------------------------------------------------------------------------------------------------


def _question(fields: Fields) -> Found:
    for name, column, value in fields.there(QUESTION):
        value = listed(value, column) if name == "prompt" else value
        if name in CONVERSATIONS or (name == "prompt" and isinstance(value, list)):
            return Found(whole(last_exchange(value, column)[0], column), name, f"{column} (last turn of the user)")
        if name == "input":  # what an instruction is about
            for _, task, told in fields.there(("instruction",)):
                joined = f"{text_of(told, task)}\n\n{text_of(value, column)}"
                return Found(joined, name, f"{task} and {column}")
        return Found(text_of(value, column), name, column)
    return Found()


def _refuse_choices(fields: Fields, question: str, answer: Found) -> None:
    """Refuse an answer that is the place of a choice which the question does not show.

    Raises:
        ProblemFileError: Says what to write.
    """
    for _, column, value in fields.there(CHOICES):
        choices = _texts(listed(value, column))
        by_place = re.fullmatch(r"\(?[A-Z]\)?|\d{1,2}", answer.text) and answer.text not in choices
        number = any(not isinstance(given, str) for _, there, given in fields.there(ANSWER) if there == answer.column)
        if (by_place or number) and not all(choice in question for choice in choices):
            raise ProblemFileError(
                f"{answer.column} is {answer.text[:40]!r}, a place in {column}, which the question does not show. "
                "Write the choices into the question with their letters and the letter as answer, or give the text of "
                "the right one as answer."
            )


def _texts(value: Any) -> list[str]:
    """Choices in a list or by letter."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for one in inner for text in _texts(one)]
    return [] if value is None else [str(value)]


# --- Answer ------------------------------------------------------------------------------------------------------


def _answers(fields: Fields) -> Iterator[Found]:
    """What each field of an answer says; the first is looked at, the others only if that one is empty."""
    settled = False
    for name, column, value in fields.there(ANSWER):
        if settled:  # what is passed over may be anything
            yield Found("?", name, column)
            continue
        found = _answer(name, column, value)
        settled = bool(found.text)
        yield found


def _answer(name: str, column: str, value: Any) -> Found:
    if name in CONVERSATIONS:
        return Found(boxed(last_exchange(value, column)[1]), name, f"{column} (last reply, boxed)")
    text = answer_text(value, column)
    box = boxed(text)
    if box or name in SOLUTIONS:
        return Found(box, name, f"{column} (boxed)")
    if FINAL_MARK in text:
        return Found(without_commas(text.rpartition(FINAL_MARK)[2].strip()), name, column)
    return Found("" if name == "output" and len(text) > MAX_ANSWER_CHARS else text, name, column)


def answer_text(value: Any, column: str) -> str:
    """An answer as text.

    Raises:
        ProblemFileError: It is no text and no finite number, nor a list of one of those.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*\[\s*[\"'][^\"',]*[\"']\s*\]\s*", value):  # several stay a text
        value = listed(value, column)
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):
        return answer_text(value[0], column)
    if isinstance(value, str):
        return _stated(whole(value.strip(), column), column)
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if number and math.isfinite(value):
        return str(value)
    raise ProblemFileError(
        f"{column} is {described(value)}, which cannot be graded. An answer is a text or a number; several are one "
        "text, such as '1, 2'."
    )


def boxed(text: str) -> str:
    r"""What the last box of a whole text holds that is not empty, of 2,000 characters at most; "" if there is none.

    Boxes are those of the grader: what is the gold answer here would be the answer there.
    """
    return extract_answer(text, 10 * MAX_ANSWER_CHARS) or ""


# --- Trace -------------------------------------------------------------------------------------------------------


def _trace(fields: Fields, names: tuple[str, ...]) -> Found:
    """A `trace` is read as it stands; of other recordings the marks around thoughts are left out."""
    for name, column, value in fields.there(names):
        if name == "trace":
            return Found(text_of(value, column), name, column)
        text = _recording(name, column, value)
        if name in RECORDINGS or has_marks(text) or len(text) > MAX_ANSWER_CHARS:
            clean = without_marks(text)
            if clean:
                return Found(clean, name, column)
    return Found()


def _recording(name: str, column: str, value: Any) -> str:
    if name in CONVERSATIONS:
        return whole(last_exchange(value, column)[1], column)
    value = listed(value, column) if name in ("generations", "completion", "response") else value
    if name == "generations" and isinstance(value, list):
        return text_of(value[0], f"the first of {column}") if value else ""
    if name in ("completion", "response") and isinstance(value, list):
        return whole(reply(value, column), column)
    return text_of(value, column) if name in RECORDINGS or isinstance(value, str) else ""


# --- Values ------------------------------------------------------------------------------------------------------


def text_of(value: Any, column: str) -> str:
    """A value that must be text.

    Raises:
        ProblemFileError: It is something else.
    """
    if not isinstance(value, str):
        raise ProblemFileError(f"{column} is {described(value)}, where a text belongs.")
    return _stated(whole(value, column), column)


def listed(value: Any, column: str) -> Any:
    """A list of texts or objects that stands as its JSON text, as .csv holds it; any other value as it is.

    Raises:
        ProblemFileError: It is how Python prints a list, which nothing else reads.
    """
    if not isinstance(value, str) or (start := AS_TEXT.fullmatch(value.strip())) is None:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        if start[1] == "'":
            raise ProblemFileError(f"{column} is a list as Python prints it. Write it as JSON (json.dumps).") from error
        return value


def _object_of(text: str) -> Any:
    """An object that stands as its JSON text; None where it is none."""
    try:
        return json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _stated(text: str, column: str) -> str:
    """A text that does not stand for a missing value.

    Raises:
        ProblemFileError: It does.
    """
    if text.strip() in NO_VALUE:
        raise ProblemFileError(f"{column} is the text {text.strip()!r}, a missing value. Leave the field empty.")
    return text


def whole(text: str, column: str) -> str:
    """A text of whole characters.

    Raises:
        ProblemFileError: It has a half of a surrogate pair, which no tokenizer reads.
    """
    if complaint := half_character(text):
        raise ProblemFileError(f"{column} {complaint}. Write the file again in UTF-8.")
    return text


def described(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return f"the number {str(value)[:40]}" if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, Mapping) else f"of type {type(value).__name__}"
