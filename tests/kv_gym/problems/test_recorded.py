"""Sets from files and from the hub, which is played by a stand-in: tests have no network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kv_gym.config import make_config
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.problems import problem_count, problem_source, source_entries, source_kind
from kv_gym.problems.grading import same_answer
from kv_gym.problems.hub import AIME24, GSM8K, MATH500, HubSet, math_rollouts
from kv_gym.problems.recorded import INSTRUCTION, RecordedSource, read_file, survey_file, survey_rows

SHARED = Path(__file__).parents[4] / "shared" / "data"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*rows: Any, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return path

    return to_file


def test_rows_become_problems(write: Write) -> None:
    path = write(
        {"id": "I-1", "problem": "1 + 1?", "answer": 2, "subject": "sums"},
        {"question": "2 + 2?", "answer": "So it is 2 + 2 = 4.\n#### 1,004"},
        {"problem": "x?", "gt_answer": "9", "answer": "7", "trace": "long", "is_correct": False},
    )
    source = read_file(path)
    one, two, three = (source.problem("test", 5, i) for i in range(3))
    assert (one.id, one.family, one.prompt, one.answer) == ("mine/I-1", "sums", "1 + 1?" + INSTRUCTION, "2")
    assert (two.id, two.family, two.answer, two.trace) == ("mine/1", "all", "1004", "")
    assert (three.answer, three.trace, three.family) == ("7", "long", "incorrect"), "what the trace comes to"
    assert source.size("test") == 3 and source.families == ("all", "incorrect", "sums")


def test_splits_are_those_of_the_rows(write: Write) -> None:
    row = {"problem": "p", "answer": "1"}
    source = read_file(write({**row, "split": "train"}, {**row, "split": "train"}, row))
    assert (source.size("train"), source.size("test")) == (2, 1)
    with pytest.raises(ConfigError, match="no split 'validation', only test, train"):
        source.size("validation")
    with pytest.raises(ConfigError, match="problem 1 of 'mine': its test split has 0 to 0"):
        source.problem("test", 0, 1)


def test_splits_are_named_in_capitals_too(write: Write) -> None:
    row = {"problem": "p", "answer": "1"}
    source = read_file(write({**row, "split": "Test"}, {**row, "split": " TRAIN"}, {**row, "split": None}))
    assert (source.size("train"), source.size("test")) == (1, 2)


def test_nothing_is_noted_of_a_row_that_turns_out_damaged(write: Write) -> None:
    damaged = '{"id": "a", "problem": "q", "answer": "1", "subject": "\\udc00"}\n'
    survey = survey_file(write(damaged), strict=False)
    assert survey.problems == {} and survey.numbers == {}
    assert [number for number, _ in survey.wrong] == [1] and "subject" in survey.wrong[0][1]
    after = survey_file(write(damaged, {"id": "a", "problem": "q", "answer": "1"}), strict=False)
    assert [number for number, _ in after.wrong] == [1] and len(after.problems["test"]) == 1, "its id is free"


def test_an_environment_has_no_more_problems_than_its_set(write: Write) -> None:
    path = str(write({"problem": "p", "answer": "1"}, {"problem": "q", "answer": "1"}))
    assert problem_count(make_config("KVEvict-AIME24-v0", problems=path)) == 2
    assert problem_count(make_config("KVEvict-AIME24-v0", problems=path, n_problems=1)) == 1
    assert problem_count(make_config("KVEvict-AIME-v0")) == 1024


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"mine\.jsonl, line 1 is not JSON"),
        ("[1]\n", r"mine\.jsonl, line 1 is not a JSON object"),
        (
            {"problem": "p"},
            r"none of its rows .*without an answer .*\(line 1\)\. The first row has 'problem'\.",
        ),
        ({"answer": "1"}, r"mine\.jsonl, line 1: a row needs a question"),
        ("", "'mine' has no rows"),
        ({"problem": "p", "answer": "abc ####"}, "1 without an answer that can be graded"),
        ({"problem": "p", "answer": "1" * 201}, "1 with an answer of more than 200 characters"),
        ('{"problem": "p", "answer": ' + "9" * 5000 + "}", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_files_are_refused(line: Any, message: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=message):
        read_file(write(line))


def test_odd_but_right_files_are_read(write: Write) -> None:
    odd = '{"problem": "a\u2028b\x85c", "answer": "1", "is_correct": [1], "trace": "t"}\n'
    source = read_file(write(odd))
    assert source.size("test") == 1 and source.problem("test", 0, 0).family == "all"
    with pytest.raises(ConfigError, match="line 2: problem set 'mine' has two problems 'mine/x', this one and line 1"):
        read_file(write({"id": "x", "problem": "p", "answer": "1"}, {"id": "x", "problem": "q", "answer": "2"}))


def test_missing_file_and_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        problem_source("nowhere.jsonl")
    with pytest.raises(UnknownNameError, match="'aime23'.*Did you mean 'aime2[456]'.*problems=my.jsonl"):
        problem_source("aime23")


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    fake = ModuleType(module)
    for name, function in functions.items():
        setattr(fake, name, function)
    monkeypatch.setitem(sys.modules, module, fake)


def test_hub_sets_are_asked_for_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(repo: str, subset: str | None, split: str) -> list[dict[str, str]]:
        asked.append((repo, subset, split))
        return [{"question": "q", "answer": "#### 3"}]

    stand_in(monkeypatch, "datasets", load_dataset=load_dataset)
    assert GSM8K().problem("test", 0, 0).answer == "3"
    assert asked == [("openai/gsm8k", "main", "test")]


@pytest.mark.parametrize("error", [ConnectionError("no route to host"), ValueError("unknown split"), Exception("")])
def test_without_a_network_both_ways_are_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise error

    stand_in(monkeypatch, "datasets", load_dataset=load_dataset)
    with pytest.raises(ConfigError, match=r"HuggingFaceH4/aime_2024.*problems=path/to/aime24\.jsonl.*" + str(error)):
        AIME24()


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"datasets is not installed: pip install kv-gym\[hub\]"):
        MATH500()


def test_math_rollouts_reads_a_folder_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files: dict[str, dict[str, Any]] = {}
    for kind, right in (("correct", True), ("incorrect", False)):
        folder = f"deepseek-r1-distill-qwen-14b/temperature_0.6_top_p_0.95/{kind}_base_solution/problem_7"
        files[f"{folder}/problem.json"] = {"problem": "p", "gt_answer": "1"}
        solution = {"solution": "thus", "answer": "1" if right else "2", "is_correct": right}
        files[f"{folder}/base_solution.json"] = solution
        files[f"{folder}/chunk_0/solutions.json"] = {}
    files["another-model/x/correct_base_solution/problem_7/problem.json"] = {}

    def download(repo: str, path: str, repo_type: str) -> str:
        target = tmp_path / path.replace("/", "_")
        target.write_text(json.dumps(files[path]))
        return str(target)

    class Api:
        def list_repo_files(self, repo: str, repo_type: str) -> list[str]:
            return list(files)

    stand_in(monkeypatch, "huggingface_hub", HfApi=Api, hf_hub_download=download)
    source = RecordedSource(survey_rows("traces", math_rollouts(HubSet("some", "some/repo"))))
    assert [source.problem("test", 0, i).id for i in range(source.size("test"))] == [
        "traces/correct_base_solution/problem_7", "traces/incorrect_base_solution/problem_7",
    ]  # fmt: skip
    assert [source.problem("test", 0, i).answer for i in (0, 1)] == ["1", "2"]


def test_what_is_left_out_is_told_once(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    row = {"problem": "p", "answer": "1"}
    read_file(write(row, row | {"answer": "1" * 201}, row | {"answer": None}, row | {"answer": "  "}))
    assert [record.getMessage() for record in caplog.records] == [
        "problem set 'mine': 3 of 4 rows are left out: 1 with an answer of more than 200 characters, which cannot be "
        "graded (line 2); 2 without an answer that can be graded (lines 3, 4)."
    ]


def test_two_problems_of_one_id_are_found_in_a_moment(write: Write) -> None:
    rows = [{"id": i, "problem": "p", "answer": "1"} for i in range(16_000)]
    path = write(*rows, rows[-1])
    start = time.process_time()
    with pytest.raises(
        ConfigError, match=r"line 16001: problem set 'mine' has two problems .*/15999', .* and line 16000\."
    ):
        read_file(path)
    assert time.process_time() - start < 2
    assert [number for number, _ in survey_file(path, strict=False).wrong] == [16_001]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded sets are not part of the repository")
def test_tasks_without_answers_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="rows can be played: 164 without an answer.* has 'task_id', 'prompt', 'entry_point'"
    ):
        read_file(SHARED / "problems" / "humaneval.jsonl")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded sets are not part of the repository")
@pytest.mark.parametrize(
    ("name", "size", "first"),
    [
        ("problems/aime2024", 30, "204"), ("problems/aime2025", 30, "70"), ("problems/gsm8k_test", 1319, "18"),
        ("problems/math500", 500, r"\left( 3, \frac{\pi}{2} \right)"), ("traces/thought_anchors_math", 20, "6.17"),
        ("traces/long_cot_train", 240, "4.03188"), ("traces/long_cot_other_domains", 37, r"4 \times 10^{5}"),
    ],
)  # fmt: skip
def test_real_files_are_read_whole(name: str, size: int, first: str) -> None:
    source = read_file(SHARED / f"{name}.jsonl")
    assert source.size("test") == size
    problem = source.problem("test", 0, 0)
    assert problem.answer == first and same_answer(problem.answer, problem.answer)
    prompts = [source.problem("test", 0, i).prompt for i in range(size)]
    assert all(prompt.endswith(INSTRUCTION) or "\\boxed" in prompt for prompt in prompts)


def test_every_hub_set_has_a_page() -> None:
    from kv_gym.config import env_page
    from kv_gym.registry import env_ids

    hub = [name for name in source_entries() if isinstance(source_kind(name), HubSet)]
    assert len(hub) == 6 and {env_page(env_id).settings.problems for env_id in env_ids()} >= set(hub)
