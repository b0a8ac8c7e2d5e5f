"""What the fields of a row mean: every name, the order where several are there, and values that cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kv_gym.errors import ProblemFileError
from kv_gym.problems import Problem
from kv_gym.problems.fields import ANSWER, NAME, QUESTION, TRACE, Fields, boxed, known_name, understand
from kv_gym.problems.grading import extract_answer
from kv_gym.problems.recorded import INSTRUCTION, LONG_ANSWER, NO_ANSWER, NO_TRACE, RecordedSource, survey_rows

Q, A = {"problem": "1 + 1?"}, {"answer": "2"}
LONG = "First I add one and one. " * 20
THOUGHT = "<|begin_of_thought|>\n\nOne more.\n\n<|end_of_thought|>"
SOLUTION = "<|begin_of_solution|>\\boxed{2}<|end_of_solution|>"
SHAREGPT = [
    {"from": "system", "value": "You are good at sums."}, {"from": "human", "value": "1 + 1?"},
    {"from": "gpt", "value": f"{THOUGHT}\n\n{SOLUTION}"},
]  # fmt: skip
CHAT = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "<think>One more.</think>So \\boxed{2}"},
]
ASKED_LAST = [
    {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi \\boxed{9}"},
    {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}, {"role": "assistant", "content": "\\boxed{2}"},
]  # fmt: skip


def read(row: dict[str, Any], traces: bool = False) -> Problem:
    return RecordedSource(survey_rows("mine", [row], traces)).problem("test", 0, 0)


QUESTIONS: dict[str, Any] = {
    "problem": "1 + 1?", "Problem": "1 + 1?", "question": "1 + 1?", "PROMPT": "1 + 1?", "input": "1 + 1?",
    "prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1?"}], "messages": CHAT,
    "conversations": SHAREGPT, "Messages": json.dumps(ASKED_LAST), "Prompt": json.dumps(ASKED_LAST),
    "instruction": "1 + 1?", "CONVERSATIONS": [{"from": "User", "value": "1 + 1?"}, {"from": "BOT", "value": "2"}],
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_found_under_its_name(name: str) -> None:
    assert read({name: QUESTIONS[name]} | A).prompt == "1 + 1?" + INSTRUCTION


ANSWERS: dict[str, tuple[str, Any]] = {
    "answer": ("answer", "2"), "a number": ("answer", 2), "ANSWER": ("ANSWER", "2"), "gt_answer": ("gt_answer", "2"),
    "final_answer": ("Final Answer", ["2"]), "expected_answer": ("expected_answer", "2"),
    "ground_truth": ("groundTruth", " 2 "), "reward_model": ("reward_model", {"ground_truth": "2", "style": "rule"}),
    "target": ("target", "2"), "output": ("output", "2"), "a boxed output": ("output", LONG + "\\boxed{2}"),
    "solution": ("solution", "1 and 1 is \\boxed{2}."), "boxed": ("answer", "$\\boxed{2}$"),
    "a list as text": ("answer", '["2"]'), "a reward as text": ("reward_model", '{"ground_truth": "2"}'),
    "a bot": ("messages", [CHAT[0], {"role": "Bot", "content": "\\boxed{2}"}]),
    "messages": ("messages", CHAT), "conversations": ("conversations", SHAREGPT),
    "behind a mark": ("answer", "1 and 1\n#### 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_is_found_under_its_name(kind: str) -> None:
    name, value = ANSWERS[kind]
    assert read({**Q, name: value}).answer == "2"


@pytest.mark.parametrize(("behind", "gold"), [
    ("1,234", "1234"), ("1,234,567", "1234567"), ("-1,234.5", "-1234.5"), ("(1,2)", "(1,2)"), ("1,2", "1,2"),
    ("3, 5", "3, 5"), ("0,125", "0,125"), ("12,34", "12,34"),
])  # fmt: skip
def test_behind_a_mark_only_thousands_lose_their_commas(behind: str, gold: str) -> None:
    assert read(Q | {"answer": f"So it is.\n#### {behind}"}).answer == gold


TRACES: dict[str, tuple[str, Any, str]] = {
    "trace": ("trace", "<think>One", "<think>One"),
    "reasoning": ("reasoning", "One more.", "One more."),
    "reasoning_content": ("reasoning_content", "One more.", "One more."),
    "generation": ("generation", "<think>\nOne more.\n</think>\nTwo.", "One more.\n\nTwo."),
    "the opening mark in the prompt": ("generation", "One more.\n</think>\n\nTwo.", "One more.\n\nTwo."),
    "generations": ("generations", ["One more.", "No."], "One more."),
    "generations as text": ("generations", '["<think>One more.</think>", "No."]', "One more."),
    "completion as text": ("completion", json.dumps([{"role": "assistant", "content": LONG}]), LONG.strip()),
    "generated_solution": ("Generated solution", "One more.", "One more."),
    "completion": ("completion", LONG, LONG.strip()),
    "completion of turns": ("completion", [{"role": "assistant", "content": LONG}], LONG.strip()),
    "response": ("response", "<think>One more.</think>", "One more."),
    "output": ("output", LONG, LONG.strip()),
    "messages": ("messages", CHAT, "One more.\n\nSo \\boxed{2}"),
    "conversations": ("conversations", SHAREGPT, "One more.\n\n\\boxed{2}"),
    "a thought beside": (
        "messages", [CHAT[0], {"role": "assistant", "reasoning_content": "One more.", "content": "Two."}],
        "One more.\n\nTwo.",
    ),
    "solution": ("solution", LONG + "\\boxed{2}", LONG + "\\boxed{2}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRACES)
def test_a_trace_is_found_under_its_name(kind: str) -> None:
    name, value, trace = TRACES[kind]
    problem = read({**Q, **A, name: value}, traces=True)
    assert (problem.trace, problem.answer) == (trace, "2")
    assert read({**Q, **A, name: value}).trace == (trace if name == "trace" else ""), "others ask for no trace"


@pytest.mark.parametrize(("name", "value"), [
    ("output", "2"), ("solution", "1 + 1 = \\boxed{2}"), ("response", "Two."), ("completion", ""), ("generations", []),
    ("response", {"text": LONG}), ("messages", [{"role": "user", "content": "x"}]), ("generation", "<think></think>"),
])  # fmt: skip
def test_a_short_text_is_no_trace(name: str, value: Any) -> None:
    with pytest.raises(ProblemFileError, match=f"none of its rows can be played: 1 {NO_TRACE} \\(row 1\\)"):
        read({**Q, **A, name: value}, traces=True)


def test_the_answer_is_what_the_recording_comes_to() -> None:
    row = {**Q, **A}
    assert read({**row, "generation": "so \\boxed{3}, no, \\boxed{4}"}, traces=True).answer == "4"
    assert read({**row, "generation": "so \\boxed{3}"}).answer == "2", "without traces, the gold answer"
    assert read({**row, "generation": "so three"}, traces=True).answer == "2"
    assert read({**row, "trace": "so \\boxed{3}"}, traces=True).answer == "2", "beside a trace, it says so itself"
    assert read({**Q, "trace": "so \\boxed{3}"}).answer == "3"
    found = understand(Fields({**row, "generation": "so \\boxed{3}"}), traces=True)
    assert (found.answer.column, found.passed_over) == ("generation (last box)", ("answer",))


def test_the_order_decides_and_what_was_passed_over_is_told() -> None:
    row = {
        "question": "q", "problem": "p", "solution": "\\boxed{5}", "ground_truth": True, "expected_answer": "4",
        "answer": "", "generation": LONG, "reasoning": "r", "prompt": ["anything"],
    }  # fmt: skip
    found = understand(Fields(row), traces=True)
    assert (found.question.text, found.answer.text, found.trace.text) == ("p", "4", "r")
    assert found.passed_over == ("ground_truth", "solution")
    assert (found.question.column, found.answer.column, found.trace.column) == (
        "problem",
        "expected_answer",
        "reasoning",
    )


def test_an_instruction_is_asked_with_its_input() -> None:
    row = {"instruction": "Solve for x.", "input": "2x = 4", "output": "2"}
    assert read(row).prompt == "Solve for x.\n\n2x = 4" + INSTRUCTION
    found = understand(Fields(row), traces=False)
    assert (found.question.column, found.unused) == ("instruction and input", ())
    assert read(row | {"input": ""}).prompt == "Solve for x." + INSTRUCTION
    other = understand(Fields(row | {"problem": "p", "Source": "web"}), traces=False)
    assert (other.question.text, other.unused) == ("p", ("input", "instruction", "Source"))


@pytest.mark.parametrize("choices", [["1", "2", "3", "5"], {"A": "1", "B": "2"}, {"text": ["1", "2"]}, '["1", "4"]'])
@pytest.mark.parametrize("answer", [1, "0", "B", "(b)".upper()])
def test_an_answer_that_is_the_place_of_a_choice_is_refused(choices: Any, answer: Any) -> None:
    row = {"question": "Half of four?", "choices": choices, "answer": answer}
    with pytest.raises(
        ProblemFileError, match=r"a place in choices, which the question does not show\. Write the choices"
    ):
        read(row)
    shown = "Half of four? A) 1 B) 2 C) 3 D) 4 E) 5"
    if "text" not in choices:
        assert read(row | {"question": shown}).answer == str(answer)


def test_an_answer_that_is_the_text_of_a_choice_is_asked_openly() -> None:
    row = {"question": "Half of four?", "options": ["1", "2"], "answer": "2"}
    assert read(row).answer == "2" and understand(Fields(row), traces=False).unused == ("options",)
    assert read(row | {"options": [], "answer": "B"}).answer == "B"
    assert read(row | {"options": ["one half", "two"], "answer": "two"}).answer == "two"


def test_rows_of_one_file_may_use_different_fields() -> None:
    survey = survey_rows("mine", [Q | A, {"Question": "2?", "target": 2}, {"problem": None, "prompt": "3?", **A}])
    assert [problem.answer for problem in survey.problems["test"]] == ["2", "2", "2"]
    assert survey.columns["problem"] == {"problem": 1, "Question": 1, "prompt": 1}


def test_a_prompt_that_asks_for_a_box_is_not_asked_twice() -> None:
    prompt = "1 + 1? Answer in \\boxed{}."
    assert read({"prompt": prompt} | A).prompt == prompt
    assert read({"problem": prompt} | A).prompt == prompt
    assert read({"problem": "1 + 1?"} | A).prompt.endswith(INSTRUCTION)


def test_one_name_in_two_spellings_is_no_guess() -> None:
    with pytest.raises(ProblemFileError, match="row 1: 'answer' and 'Answer' are one name and say different things"):
        read({**Q, "answer": "1", "Answer": "2"})
    assert read({**Q, "answer": "", "Answer": "2"}).answer == "2"
    assert read({**Q, "answer": "2", "Answer": "2"}).answer == "2"
    assert {known_name(name) for name in ("groundTruth", "Ground Truth", "GROUND-TRUTH", "ground_truth")} == {
        "ground_truth"
    }


@pytest.mark.parametrize(("text", "box"), [
    ("\\boxed{1} then \\boxed {\\frac{1}{2}}.", "\\frac{1}{2}"), ("\\boxed{1", ""), ("none", ""), ("\\boxed{}", ""),
    ("\\boxed{" + "1" * 5000 + "}", ""), ("so \\boxed 7, done", "7"), ("\\boxed 5", "5"),
    ("\\boxed{5} and \\boxed{}", "5"), ("\\boxed\\frac{1}{2}", "\\frac{1}{2}"), ("\\boxed 5x", ""),
])  # fmt: skip
def test_the_last_box_counts_as_it_does_for_the_grader(text: str, box: str) -> None:
    assert boxed(text) == box == (extract_answer(text) or "")


def test_a_box_that_is_too_long_to_be_graded_is_found_to_say_so() -> None:
    assert boxed("\\boxed{" + "1" * 300 + "}") == "1" * 300


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": (Q | {"answer": float("nan")}, "answer is nan, which cannot be graded"),
    "NaN as text": (Q | {"answer": "nan"}, "answer is the text 'nan', a missing value. Leave"),
    "None as text": (Q | {"answer": "None"}, "answer is the text 'None', a missing value"),
    "no question as text": ({"problem": "NaN"} | A, "problem is the text 'NaN', a missing value"),
    "Python's list": (Q | {"answer": "['2']"}, "answer is a list as Python prints it. Write it as JSON"),
    "Python's turns": ({"prompt": str(CHAT)} | A, "prompt is a list as Python prints it. Write it as JSON"),
    "infinity": (Q | {"answer": float("inf")}, "answer is inf"),
    "true": (Q | {"answer": True}, "answer is true"),
    "an object": (Q | {"answer": {"value": 2}}, "answer is an object"),
    "several": (Q | {"Answer": ["1", "2"]}, "Answer is a list of 2, .* several are one text"),
    "nested": (Q | {"answer": [["1"]]}, "answer is a list of 1"),
    "bytes": (Q | {"target": b"2"}, "target is of type bytes"),
    "nested truth": (Q | {"reward_model": {"ground_truth": None}}, NO_ANSWER),
    "long": (Q | {"answer": "1" * 201}, f"{LONG_ANSWER} \\(row 1\\)\\. The first row has 'problem', 'answer'"),
    "a solution without a box": (Q | {"solution": "It is 2."}, NO_ANSWER),
    "an empty mark": (Q | {"answer": "abc ####"}, NO_ANSWER),
    "no question": (A, "needs a question .* this one has 'answer'"),
    "nothing": ({}, "this one has nothing"),
    "a number as question": ({"problem": 5} | A, "problem is the number 5, where a text belongs"),
    "a list as question": ({"question": ["x"]} | A, "question is a list of 1"),
    "a prompt of texts": ({"prompt": ["x", "y"]} | A, "prompt is not a list of turns"),
    "a prompt of objects": ({"prompt": [{"text": "x"}]} | A, "prompt has a turn of 'None'. Known roles"),
    "a prompt object": ({"prompt": {"role": "user"}} | A, "prompt is an object"),
    "text as messages": ({"messages": "hello"} | A, "messages is text, not a list of turns"),
    "nobody asks": ({"messages": CHAT[1:]} | A, "messages has no turn of the user"),
    "an unknown role": ({"messages": [{"role": "narrator", "content": "x"}]} | A, "a turn of 'narrator'"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]} | A, r"not text \('image'\)"),
    "content of numbers": ({"messages": [{"role": "user", "content": 3}]} | A, "content is not text"),
    "half a character": ({"problem": "x\ud800y"} | A, r"problem has half a character \(surrogate U\+D800\) at place 1"),
    "half an answer": (Q | {"answer": "\udfff"}, "answer has half a character"),
    "half an id": (Q | A | {"id": "\ud800"}, "id has half a character"),
    "a trace of numbers": (Q | A | {"trace": 3}, "trace is the number 3"),
    "half a trace": (Q | A | {"trace": "\ud800"}, "trace has half a character"),
    "another split": (Q | A | {"split": "dev"}, "split is 'dev', which no environment plays"),
    "a list of splits": (Q | A | {"split": ["train"]}, "split is a list of 1, which no environment plays"),
    "a split that is true": (Q | A | {"split": True}, "split is true, which no environment plays"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_values_that_cannot_be_are_refused(kind: str) -> None:
    row, message = WRONG[kind]
    with pytest.raises(ProblemFileError, match=message):
        read(row)


@pytest.mark.parametrize(("name", "value"), [
    ("generations", [{"text": "x"}]), ("generation", 3), ("reasoning", ["x"]), ("completion", ["x"]),
    ("messages", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "reasoning": 3}]),
])  # fmt: skip
def test_recordings_that_cannot_be_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ProblemFileError, match=f"row 1: .*{name}"):
        read({**Q, **A, name: value}, traces=True)
    assert read({**Q, **A, name: value}).trace == "", "nobody asked for it"


def test_labels_are_short_texts_and_numbers() -> None:
    assert read({**Q, **A, "id": 7, "level": 3}).id == "mine/7"
    odd = {"id": float("nan"), "unique_id": ["x"], "task_id": "t" * 201, "type": {"a": 1}, "level": 3, "split": None}
    assert (read({**Q, **A, **odd}).id, read({**Q, **A, **odd}).family) == ("mine/0", "3")
    assert read({**Q, **A, "trace": "t", "is_correct": "True"}).family == "correct"


def test_the_page_names_every_field_in_its_order() -> None:
    page = (Path(__file__).parents[3] / "docs" / "problems.md").read_text()
    for what, names in (("problem", QUESTION), ("answer", ANSWER), ("trace", TRACE), ("id", NAME)):
        line = next(line for line in page.splitlines() if line.startswith(f"| {what} |"))
        assert tuple(re.findall(r"`([\w.]+)`", line)) == names, f"docs/problems.md, the line on {what}"
