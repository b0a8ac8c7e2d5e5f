import re

import numpy as np
import pytest

from kv_gym.errors import UnknownNameError
from kv_gym.llm.tiny.tokenizer import build_tokenizer
from kv_gym.problems import problem_source
from kv_gym.problems.aime import FAMILIES
from kv_gym.problems.grading import is_correct
from kv_gym.problems.worked import worked_line

SOURCE = problem_source("aime")


def problems(split, n, seed=0):
    return [SOURCE.problem(split, seed, index) for index in range(n)]


def test_splits_and_seeds_are_disjoint_by_text():
    sets = [
        {p.prompt for p in problems(split, 256, seed)} for split in ("train", "validation", "test") for seed in (0, 1)
    ]
    assert all(len(prompts) == 256 for prompts in sets), "no problem twice in a set"
    assert len(set.union(*sets)) == 6 * 256, "no problem in two sets"


def test_the_test_split_is_fixed_and_balanced():
    chosen = problems("test", 256)
    assert {family: sum(p.family == family for p in chosen) for family in FAMILIES} == dict.fromkeys(FAMILIES, 64)
    assert chosen == problems("test", 256)
    assert chosen[1].prompt == "ledger o=423,m=576,n=511:o+m,m-n,m+n,o-m,m+o,n-o,m-o?o\n"


def test_prompts_are_short_and_solutions_long():
    tokenizer = build_tokenizer()
    chosen = problems("test", 256)
    prompt = [len(tokenizer(p.prompt).input_ids) for p in chosen]
    solution = [len(tokenizer(p.solution).input_ids) - 1 for p in chosen]
    assert np.median(prompt) <= 50
    assert min(solution) >= 290 and max(solution) <= 1000


def test_the_gold_solution_is_graded_right():
    for problem in problems("validation", 64):
        assert re.fullmatch(r"\d{3}", problem.answer)
        assert is_correct(problem.solution, problem.answer)
        wrong = f"{(int(problem.answer) + 1) % 1000:03}"
        assert not is_correct(problem.solution, wrong)


def test_a_line_is_worked_out_digit_by_digit():
    values = {"a": 37, "b": 985}
    assert worked_line("c", "a", "+", "b", values) == "c=a+b=037+985:7+5+0=12,3+8+1=12,0+9+1=10;c=022"
    assert worked_line("d", "a", "-", "b", values) == "d=a-b=037-985:7-5-0=02,3-8-0=15,0-9-1=10;d=052"
    assert values == {"a": 37, "b": 985, "c": 22, "d": 52}


def answer_of(problem):
    """Solve a problem from its prompt alone, without the generator's code."""
    body, query = problem.prompt.strip().split(" ", 1)[1].split("?")
    if problem.family == "ledger":
        opening, entries = body.split(":")
        balance = {item[0]: int(item[2:]) for item in opening.split(",")}
        for left, sign, right in entries.split(","):
            balance[left] = (balance[left] + (1 if sign == "+" else -1) * balance[right]) % 1000
        return balance[query]
    items = {item[0]: item[2:] for item in body.split(",")}
    if problem.family == "graph":

        def value(name):
            text = items[name]
            if text.isdigit():
                return int(text)
            return (value(text[0]) + (1 if text[1] == "+" else -1) * value(text[2])) % 1000

        return value(query)
    given = [int(text) for text in items.values()]
    length = ord(query) - ord("a") + 1
    if problem.family == "lag":
        k = len(given)
        while len(given) < length:
            given.append((given[-1] + given[-k]) % 1000)
        return given[-1]
    terms = [(given[0] + i * given[1]) % 1000 for i in range(1, length)]
    return sum(term for term in terms if term % 10 < 5) % 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_from_the_prompts(family):
    chosen = [p for p in problems("train", 200) if p.family == family]
    assert [answer_of(p) for p in chosen] == [int(p.answer) for p in chosen]


def test_an_unknown_source_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown problem source 'aima'. Did you mean 'aime'"):
        problem_source("aima")
