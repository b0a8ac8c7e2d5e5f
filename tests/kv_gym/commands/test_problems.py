"""`kv-gym problems`: fields, the first problem, lengths and what is left out, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_gym.commands import main as cli
from kv_gym.commands import problems as command

Run = Callable[..., tuple[int, str, str]]
TRACE = "Let me add one and one, which is two. " * 8 + "\\boxed{2}"
ROWS: list[dict[str, Any]] = [
    {"Question": "1 + 1?", "answer": "2", "ground_truth": "two", "generation": TRACE},
    {"prompt": "2 + 2?\x1b[2J", "answer": 4},
    {"Question": "Why?", "answer": "because " * 40},
    {"Question": "3 + 3?", "answer": None},
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the program on rows in a file; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(rows: list[dict[str, Any]], *arguments: object) -> tuple[int, str, str]:
        Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(SystemExit) as exit_info:
            cli.main(["problems", "mine.jsonl", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return call


def facts(run: Run, rows: list[dict[str, Any]], *arguments: object) -> dict[str, Any]:
    code, out, _ = run(rows, "--json", *arguments)
    found: dict[str, Any] = json.loads(out)
    return found | {"code": code}


def test_fields_are_counted_and_told(run: Run) -> None:
    found = facts(run, ROWS)
    assert found["fields"] == {
        "problem": {"Question": 3, "prompt": 1}, "answer": {"answer": 3}, "trace": {},
        "passed over": {"ground_truth": 1}, "trace elsewhere": {"generation": 1}, "not used": {},
    }  # fmt: skip
    assert (found["rows"], found["problems"], found["code"]) == (4, {"test": 2}, 0)
    assert [(one["reason"].split()[0], one["rows"], one["first"]) for one in found["left_out"]] == [
        ("with", 1, [3]), ("without", 1, [4]),
    ]  # fmt: skip
    code, out, err = run(ROWS)
    assert code == 0 and "trace, where one is needed (KVEvict-Traces-v0) generation 1" in " ".join(out.split())
    assert "The first, line 1: mine/0 (all)" in out and "problem: 1 + 1?" in out and "answer: 2" in out
    assert "first lines" in out and "Tokens of tiny, of the first 2 problems; its tokenizer does not know" in err


def test_columns_that_nothing_is_read_from_are_told(run: Run) -> None:
    row = {"problem": "1 + 1?", "question": "What is 1 + 1?", "input": "", "answer": "2", "hint": "one more", "id": 1}
    assert facts(run, [row, row | {"id": 2, "extra": None}])["fields"]["not used"] == {
        "question": 2, "hint": 2, "extra": 1,
    }  # fmt: skip
    _, out, _ = run([row])
    assert "nothing: not read hint 1" in " ".join(out.split())
    many = facts(run, [{"problem": "p", "answer": "1", **{f"c{i}": i for i in range(500)}}])
    assert len(many["fields"]["not used"]) == 50


def test_a_damaged_row_alone_is_told_with_its_line(run: Run) -> None:
    code, out, err = run([{"problem": "q", "answer": "1", "subject": "\udc00"}])
    assert code == 2 and "line 1" in (told := out + err) and "subject" in told and "Traceback" not in told


def test_control_characters_do_not_reach_the_terminal(run: Run) -> None:
    code, out, _ = run(ROWS[1:])
    assert code == 0 and "2 + 2?" in out and "\x1b" not in out


def test_texts_are_bounded(run: Run) -> None:
    found = facts(run, [{"problem": "x" * 5000, "answer": "1"}])
    assert len(found["first"]["problem"]) < command.SHOWN_CHARS + 50
    assert found["first"]["problem"].endswith(" characters)")


def test_lengths_are_those_of_the_model(run: Run) -> None:
    from kv_gym.llm.loading import load_llm

    row = {"problem": "1 + 1?", "answer": "2", "trace": "1+1=2"}
    found, llm = facts(run, [row, row | {"trace": "1+1=2;"}]), load_llm("tiny")
    assert found["first"]["trace"] == "1+1=2"
    n = len(llm.encode_prompt(found["first"]["problem"]))
    assert found["tokens"]["prompt"] == {"min": n, "median": n, "max": n}
    assert found["tokens"]["trace"] == {"min": 5, "median": 5.5, "max": 6}
    assert found["tokens"]["model"] == "tiny" and 0 < found["tokens"]["unknown"] < 1


def test_an_environment_says_what_it_cannot_play(run: Run) -> None:
    row = {"problem": "1 + 1?", "answer": "2"}
    rows = [
        row | {"generation": TRACE}, row | {"generation": "short \\boxed{2}"}, row, row | {"generation": TRACE * 5},
        row | {"problem": "1 + 1?" * 200, "generation": TRACE},
    ]  # fmt: skip
    fits = ("--set=budget=64", "--set=evict_every=16", "--set=max_prompt_tokens=150", "--set=max_new_tokens=400")
    found = facts(run, rows, "--env", "KVEvict-Traces-v0", "--model", "tiny", *fits)
    assert found["fields"]["trace"] == {"generation": 4} and "trace elsewhere" not in found["fields"]
    assert {one["reason"]: one["first"] for one in found["left_out"]} == {"without a recorded trace": [3]}
    assert {one["reason"].partition(":")[0]: one["first"] for one in found["unfit"]} == {
        "with a prompt of more than max_prompt_tokens=150": [5], "with a trace of more than max_new_tokens=400": [4],
    }  # fmt: skip
    found = facts(run, rows, "--env", "KVEvict-Traces-v0", "--model", "tiny", *fits, "--set=budget=400")
    assert {one["reason"].partition(" (")[0]: one["first"] for one in found["unfit"]}["of fewer than 448 tokens"] == [
        1,
        2,
    ]


def test_a_file_of_which_an_environment_plays_nothing_exits_with_2(run: Run) -> None:
    row = {"problem": "1 + 1?", "answer": "2", "trace": "1+1=2"}
    code, out, err = run([row], "--env", "KVEvict-Traces-v0", "--model", "tiny")
    assert code == 2 and "left out" in out and "KVEvict-Traces-v0 plays none of these problems" in " ".join(err.split())
    code, _, err = run([row], "--env", "KVEvict-AIME-v0")
    assert code == 2 and "plays none" in " ".join(err.split())
    plain = {"problem": "1 + 1?", "answer": "2"}
    found = facts(run, [row, plain], "--env", "KVEvict-AIME-v0", "--set=max_prompt_tokens=90")
    assert (found["playable"], found["code"]) == (1, 0)
    code, _, err = run([plain], "--env", "KVEvict-AIME-v0", "--set=max_prompt_tokens=8")
    assert code == 2 and "plays none" in " ".join(err.split())


def test_lengths_are_of_what_the_environment_asks(run: Run) -> None:
    row = {"problem": "1 + 1?", "answer": "2"}
    found = facts(run, [row], "--env", "KVEvict-AIME-v0", "--set=instruction=''")
    assert found["tokens"]["prompt"]["max"] < 12 < facts(run, [row])["tokens"]["prompt"]["max"]


def test_what_is_said_to_be_too_short_is_what_the_benchmark_leaves_out(run: Run, random_model: Path) -> None:
    """The command's arithmetic is that of the engine, at the edge."""
    from kv_gym.bench.plan import prepare
    from kv_gym.bench.progress import Silent
    from kv_gym.config import make_config
    from kv_gym.engine.episodes import is_playable
    from kv_gym.llm.loading import load_llm

    rows = [{"problem": "1 + 1?", "answer": "2", "trace": "1+1=2;" * n + "\\boxed{2}"} for n in range(1, 40, 3)]
    settings = {"model": str(random_model), "budget": 96, "evict_every": 16, "max_answer_tokens": 1}
    found = facts(
        run, rows, "--env", "KVEvict-Traces-v0", *(f"--set={name}={value}" for name, value in settings.items())
    )
    config = make_config("KVEvict-Traces-v0", problems="mine.jsonl", **settings)
    episodes = prepare(load_llm(str(random_model)), config, 1, 8, Silent())
    short = [i + 1 for i, episode in enumerate(episodes) if not is_playable(episode.reference, config)]
    assert 2 < len(short) < len(rows) - 2
    assert [one["rows"] for one in found["unfit"]] == [len(short)] and found["unfit"][0]["first"] == short[:5]


def test_rows_that_cannot_be_read_are_all_told(run: Run) -> None:
    rows = [*ROWS[:1], *({"problem": "p", "answer": True, "id": i} for i in range(command.SHOWN_WRONG + 5))]
    code, out, _ = run(rows)
    assert code == 2 and "line 2: answer is true, which cannot be graded" in out
    assert "... and 5 more rows that cannot be read" in out
    found = facts(run, rows)
    assert found["n_wrong"] == command.SHOWN_WRONG + 5 and len(found["wrong"]) == command.SHOWN_WRONG
    assert found["wrong"][0]["number"] == 2 and found["unit"] == "line" and found["code"] == 2


def test_a_file_of_nothing_to_play_says_why(run: Run) -> None:
    code, out, err = run(ROWS[3:])
    assert code == 2 and "problems: none" in out and "none of its rows can be played" in err
    code, out, err = run([])
    assert code == 2 and "'mine' has no rows" in err
    code, out, err = run(ROWS, "--set=budget=64")
    assert code == 2 and "Add --env" in err


def test_a_file_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run(ROWS, "--model", "tinny")
    assert code == 2 and "UnknownNameError" in err
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["problems", str(tmp_path / "gone.jsonl")])
    assert exit_info.value.code == 2
