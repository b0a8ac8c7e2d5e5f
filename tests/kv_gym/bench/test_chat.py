"""Settings of the chat reach the model, and are a part of what references and rows are."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import kv_gym  # noqa: F401
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench, result_settings
from kv_gym.bench.rows import sha256_of
from kv_gym.bench.runner import problem_hash
from kv_gym.commands.options import parse_settings
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.reference import ReferenceStore
from kv_gym.errors import ConfigError
from kv_gym.llm.loading import load_llm
from kv_gym.problems import list_problems
from kv_gym.problems.recorded import INSTRUCTION

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from chat_model import save_chat_model

ENV = "KVEvict-GSM8K-v0"
RESULTS = Path(__file__).parents[3] / "leaderboards" / "results"
DEFAULTS: dict[str, Any] = {"chat_template_kwargs": {}, "system_prompt": "", "instruction": None}
OTHERS: dict[str, Any] = {
    "chat_template_kwargs": {"enable_thinking": False}, "system_prompt": "Be brief.",
    "instruction": "Box it: \\boxed{}.",
}  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("chat")
    rows = [{"id": i, "problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": str(save_chat_model(folder / "model")), "dtype": "float32", "problems": str(folder / "sums.jsonl"),
        "budget": 24, "evict_every": 8, "max_prompt_tokens": 300, "max_new_tokens": 64, "temperature": 0.0,
        "top_p": 1.0, "top_k": 0,
    }  # fmt: skip


def prompt_of(options: dict[str, Any]) -> str:
    """What the model reads in the first episode."""
    with gymnasium.make(ENV, **options) as env:
        env.reset(seed=0, options={"problem": 0})
        core = env.unwrapped.core  # type: ignore[attr-defined]
        reference = core.problems.chosen(0, 0)
        return core.llm.tokenizer.decode(reference.tokens[: reference.n_prompt])


def test_each_setting_changes_the_prompt_as_it_says(options: dict[str, Any]) -> None:
    plain = prompt_of(options)
    asked = "<|im_start|>user\nWhat is 0 + 1?"
    assert plain == f"{asked}{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(options | {"chat_template_kwargs": {"enable_thinking": True}}) == plain
    quiet = prompt_of(options | {"chat_template_kwargs": {"enable_thinking": False}})
    assert quiet == plain + "<think>\n\n</think>\n\n"
    assert prompt_of(options | {"system_prompt": "Be brief."}) == f"<|im_start|>system\nBe brief.<|im_end|>\n{plain}"
    assert prompt_of(options | {"instruction": ""}) == plain.replace(INSTRUCTION, "")
    assert prompt_of(options | {"instruction": "In a box."}) == plain.replace(INSTRUCTION, "\n\nIn a box.")


def test_a_question_that_speaks_of_the_box_is_asked_once(options: dict[str, Any], tmp_path: Path) -> None:
    question = "What is 1 + 1? Put your answer in \\boxed{}."
    (tmp_path / "own.jsonl").write_text(json.dumps({"problem": question, "answer": "2"}))
    own = options | {"problems": str(tmp_path / "own.jsonl")}
    assert prompt_of(own).count("\\boxed") == 1
    config = make_config(ENV, **own, instruction="Think first.")
    assert list_problems(config)[0].prompt == f"{question}\n\nThink first."


def test_instructions_are_for_made_problems_too() -> None:
    made = list_problems(make_config("KVEvict-AIME-v0", n_problems=2))
    told = list_problems(make_config("KVEvict-AIME-v0", n_problems=2, instruction="Box it."))
    assert [one.prompt for one in told] == [f"{one.prompt}\n\nBox it." for one in made]
    assert list_problems(make_config("KVEvict-AIME-v0", n_problems=2, instruction="")) == made


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_set_is_another_reference_and_another_row(name: str, options: dict[str, Any]) -> None:
    llm = load_llm(options["model"])
    plain, other = (make_config(ENV, **options, **setting) for setting in ({}, {name: OTHERS[name]}))
    keys, settings = [], []
    for config in (plain, other):
        store = ReferenceStore(llm, config)
        keys.append([store.key(problem, 0) for problem in list_problems(config)])
        settings.append(sha256_of(result_settings(config)))
    assert not set(keys[0]) & set(keys[1]) and settings[0] != settings[1]


def test_what_is_written_out_as_it_is_by_default_changes_no_hash(options: dict[str, Any]) -> None:
    plain, written = make_config(ENV, **options), make_config(ENV, **options, **DEFAULTS)
    assert result_settings(plain) == result_settings(written) and not DEFAULTS.keys() & result_settings(plain).keys()
    assert plain == written and hash(plain) == hash(written)
    assert {plain: 1}[written] == 1 and {plain, make_config(ENV, **options, **OTHERS)} != {plain}


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


FILES = sorted(RESULTS.rglob("rows.jsonl.gz"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.relative_to(RESULTS)))
def test_settings_of_stored_runs_have_the_hash_of_today(file: Path) -> None:
    runs = [line for line in read_lines(file) if line["kind"] == "run"]
    assert runs
    for run in runs:
        names = run["settings"].keys() & EnvConfig.model_fields.keys()
        options = {name: run["settings"][name] for name in names}
        options |= {"budget": 1024, "n_recent": run["settings"]["recent"], "split": run["plan"]["split"]}
        assert sha256_of(result_settings(make_config(run["plan"]["env_id"], **options))) == run["settings_sha256"]


def test_stored_problems_have_the_hash_of_today() -> None:
    rows = [line for line in read_lines(RESULTS / "KVEvict-AIME-v0-fresh" / "rows.jsonl.gz") if "problem" in line]
    stored = {row["problem"]: row["problem_sha256"] for row in rows}
    problems = list_problems(make_config("KVEvict-AIME-v0", split="test", n_problems=64))
    assert {problem.id: problem_hash(problem) for problem in problems}.items() <= stored.items()


def test_the_keys_of_stored_references_are_those_of_before() -> None:
    config = make_config("KVEvict-AIME-v0", split="test", n_problems=1)
    store = ReferenceStore(load_llm("tiny"), config)
    assert store.key(list_problems(config)[0], 0) == KEY_OF_THE_FIRST


KEY_OF_THE_FIRST = "21c64cd80ab7547fb23f27f573a989e81d3bf9fadfee5db929a1f5580797e3f6"


def test_a_bench_says_what_was_set_and_knows_its_rows(options: dict[str, Any], tmp_path: Path) -> None:
    from kv_agents.heuristics.random import Random

    def run(**settings: Any) -> Any:
        sizes = {name: value for name, value in options.items() if name != "budget"}
        bench = Bench(ENV, [Random()], [24], problems=2, modes=["generate"], options=sizes | settings)
        return run_bench(bench, tmp_path / "rows.jsonl")

    plain, quiet = run(), run(chat_template_kwargs={"enable_thinking": False})
    assert plain.n_new and quiet.n_new and run().n_new == 0
    assert run(chat_template_kwargs={"enable_thinking": False}).n_new == 0
    assert quiet.runs[0].settings["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in plain.runs[0].settings
    assert {row.settings_sha256 for row in plain.rows}.isdisjoint({row.settings_sha256 for row in quiet.rows})


def test_the_command_line_takes_them() -> None:
    pairs = ["chat_template_kwargs={enable_thinking: false}", "system_prompt=Be brief.", "instruction=''"]
    found = make_config(ENV, **parse_settings(pairs))
    assert (found.chat_template_kwargs, found.system_prompt, found.instruction) == (
        {"enable_thinking": False}, "Be brief.", "",
    )  # fmt: skip


def test_settings_survive_the_spec_of_an_environment(options: dict[str, Any]) -> None:
    with gymnasium.make(ENV, **options, **OTHERS) as env:
        spec = gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json())  # type: ignore[union-attr]
    assert {name: spec.kwargs[name] for name in OTHERS} == OTHERS


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (
            {"chat_template_kwargs": {"enable_thinkin": False}},
            r"does not read enable_thinkin\. It reads: enable_thinking",
        ),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs=.* is not allowed"),
        ({"chat_template_kwargs": {1: 2}}, "is not allowed"),
        ({"chat_template_kwargs": {"enable_thinking": float("nan")}}, "finite|JSON"),
        ({"chat_template_kwargs": {"enable_thinking": object()}}, "is not allowed"),
        ({"chat_template_kwargs": {"enable_thinking": "x" * 70000}}, "70023 characters of JSON; 65536 are allowed"),
        ({"system_prompt": "x" * 70000}, "is not allowed"),
        ({"system_prompt": None}, "is not allowed"),
        ({"instruction": 1}, "is not allowed"),
    ],
)
def test_what_is_no_setting_is_refused_when_the_env_is_made(
    wrong: dict[str, Any], match: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=match):
        gymnasium.make(ENV, **options, **wrong)


def test_models_without_a_template_take_instructions_alone() -> None:
    for name in ("chat_template_kwargs", "system_prompt"):
        with pytest.raises(ConfigError, match="the model has no chat template"):
            gymnasium.make("KVEvict-AIME-v0", **{name: OTHERS[name]})
