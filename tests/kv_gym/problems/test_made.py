"""Made domains: answers solved again from the prompt alone, splits apart, solutions graded right."""

from __future__ import annotations

import re

import pytest

from kv_gym.problems import Problem, problem_source
from kv_gym.problems.grading import grade, is_correct
from kv_gym.problems.worked import worked_line

NAMES = ["retrieval", "code", "summary"]
SUMS = ["retrieval", "code"]  # worked out in lines; the answer is a number


def problems(name: str, n: int, split: str = "test", seed: int = 0) -> list[Problem]:
    return [problem_source(name).problem(split, seed, index) for index in range(n)]


def solve_retrieval(prompt: str) -> int:
    records, asked = prompt.split(" ", 1)[1].strip().split("?")
    values = {}
    for record in records.split(","):
        key, value = record.split("=")
        values[key] = int(value)
    return sum(values[key] for key in asked.split(",")) % 1000


def solve_code(prompt: str) -> int:
    program = re.sub(r"(\d)\(([^)]*)\)", lambda m: ";".join([m[2]] * int(m[1])), prompt.split(" ", 1)[1].strip())
    values: dict[str, int] = {}
    for statement in program.split(";"):
        if statement.startswith("!"):
            return values[statement[1:]]
        name, expression = statement.split("=")
        parts = re.match(r"(\d{3})$|(\w)([+-])(\w)$", expression)
        assert parts is not None
        if parts[1]:
            values[name] = int(parts[1])
        else:
            left, right = values[parts[2]], values[parts[4]]
            values[name] = (left + right if parts[3] == "+" else left - right) % 1000
    raise AssertionError("nothing is printed")


SOLVE = {"retrieval": solve_retrieval, "code": solve_code}


@pytest.mark.parametrize("name", SUMS)
def test_answers_follow_from_the_prompt(name: str) -> None:
    for problem in problems(name, 120):
        assert int(problem.answer) == SOLVE[name](problem.prompt), problem.prompt
        assert is_correct(problem.solution, problem.answer)
        assert not is_correct(problem.solution, f"{(int(problem.answer) + 1) % 1000:03}")


@pytest.mark.parametrize("name", NAMES)
def test_splits_and_seeds_are_disjoint_by_text(name: str) -> None:
    sets = [
        {p.prompt for p in problems(name, 120, split, seed)}
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    assert [len(prompts) for prompts in sets] == [120] * 6 and len(set.union(*sets)) == 720


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_long_enough_to_evict_from(name: str) -> None:
    lengths = [(len(p.prompt), len(p.solution)) for p in problems(name, 300)]
    assert max(prompt for prompt, _ in lengths) <= (360 if name == "summary" else 170)
    assert min(prompt + solution for prompt, solution in lengths) >= 330
    assert max(prompt + solution for prompt, solution in lengths) <= 620


@pytest.mark.parametrize("name", SUMS)
def test_every_line_is_worked_out_from_the_lines_before(name: str) -> None:
    """Replaying the solution line by line gives the same lines: nothing is used that was not found before."""
    for problem in problems(name, 30):
        values = {key: int(value) for key, value in re.findall(r"(\w+)=(\d{3})", problem.prompt)}
        for line in problem.solution.splitlines():
            worked = re.match(r"(\w+)=(\w+)([+-])(\w+)=\d{3}[+-]", line)
            if worked:
                assert worked_line(*worked.groups(), values) == line
            elif first := re.match(r"s=(\w+)=(\d{3})$", line):
                values["s"] = values[first[1]]
                assert values["s"] == int(first[2])


def test_families_are_what_they_say() -> None:
    for problem in problems("retrieval", 90):
        records, asked = problem.prompt.split(" ", 1)[1].strip().split("?")
        keys = [record.split("=")[0] for record in records.split(",")]
        questions = asked.split(",")
        assert len(set(questions)) == len(questions) >= 7 and set(questions) <= set(keys)
        if problem.family == "updates":
            assert len(keys) > len(set(keys))
        else:
            assert len(keys) == len(set(keys)) == 2 * len(questions)
        if problem.family == "twins":
            firsts = [key[0] for key in keys]
            assert all(firsts.count(first) == 2 for first in firsts)
    for problem in problems("code", 90):
        assert problem.prompt.count("(") == {"straight": 0, "loop": 1, "loops": 2}[problem.family]


def test_a_summary_is_the_salient_facts_latest_first() -> None:
    for problem in problems("summary", 60):
        document = problem.prompt.split(" ", 1)[1].strip().rstrip("?")
        if problem.family == "topic":
            letter, document = document.split(":")
            facts = [fact for fact in document.split(",") if fact[0] == letter]
        else:
            facts = [fact[1:] for fact in document.split(",") if fact[0] == "!"]
        assert problem.answer == ",".join(reversed(facts)) and 9 <= len(facts) <= 12
        assert len(document.split(",")) == 4 * len(facts)
        assert problem.graded == "coverage" and grade(problem.solution, problem.answer, problem.graded) == 1
        some = ",".join(facts[:4])
        assert grade(f"\\boxed{{{some}}}", problem.answer, problem.graded) == 4 / len(facts)
