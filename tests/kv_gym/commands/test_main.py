"""The command line: what is printed where, what is written, and how mistakes read."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from plugin import pretend

from kv_gym import agents
from kv_gym.bench.rows import read_rows
from kv_gym.commands import main as cli
from kv_gym.commands.options import parse_settings
from kv_gym.errors import ConfigError
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.known import known_models

ENV = "KVEvict-AIME-v0"
MINE = '''
from kv_agents.base import Agent


class Newest(Agent):
    """Keep the newest."""

    name = "newest"

    def score(self, slots):
        return slots.positions.float()


class Shifted(Newest):
    name = "shifted"

    def __init__(self, by: int = 0) -> None:
        self.by = by


class Raises(Newest):
    name = "raises"

    def score(self, slots):
        raise LookupError("no table")
'''

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the program in an empty folder with three agents installed; return (exit code, stdout, stderr)."""
    places = {"full": "heuristics.full:FullCache", "golden": "golden:Golden", "h2o": "heuristics.h2o:H2O"}
    entries = [EntryPoint(name, f"kv_agents.{place}", agents.GROUP) for name, place in places.items()]
    pretend(monkeypatch, agents.GROUP, entries)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def small(random_model: Path) -> list[str]:
    """Arguments of a bench that takes a moment."""
    settings = [f"--set=model={random_model}", "--set=max_new_tokens=72", "--set=evict_every=8"]
    return ["bench", ENV, "--problems=2", "--budget=24", "--budget=40", *settings]


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys; from kv_gym.commands.main import main\n"
        "try: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout and "report" in done.stdout
    assert time.perf_counter() - start < 10  # 0.5 s on a free core


@pytest.mark.parametrize("command", ["bench", "report", "agents", "envs"])
def test_every_option_has_a_help_text(command: str) -> None:
    import typer

    group = typer.main.get_command(cli.app)
    for option in group.commands[command].params:  # type: ignore[attr-defined]
        assert option.help, option.name


def test_shards_together_are_the_whole(run: Run, small: list[str]) -> None:
    agents = ["--agent=full", "--agent=h2o", "--mode=both"]
    shard = [one.replace("problems=2", "problems=3") for one in small]

    def cells(*places: str) -> list[tuple[object, ...]]:
        code, out, _ = run("report", *places, "--json")
        assert code == 0
        named = ("agent", "budget", "n_problems", "n_episodes", "cut_off")
        measured = ("accuracy", "loss_ratio", "loss_spike")  # and their intervals, to the rounding of other batches
        return [
            (*(cell[name] for name in named), *(pytest.approx(cell[name], rel=1e-4, abs=1e-6) for name in measured))
            for cell in json.loads(out)["cells"]
        ]

    for i, rows in ((1, 16), (2, 8)):  # three problems: the first and third, and the second
        _, _, err = run(*shard, *agents, f"--shard={i}/2", f"--out=part{i}")
        assert f"{rows} new rows, 0 known" in err
    run(*shard, *agents, "--out=whole")
    whole = [(*cell[:5], *(number.expected for number in cell[5:])) for cell in cells("whole")]  # type: ignore[attr-defined]
    assert cells("part1", "part2") == whole and len(whole) == 4
    _, out, _ = run("report", "part2", "--json")
    assert json.loads(out)["cells"][0]["n_problems"] == 1
    code, _, err = run("report", "part1", "part2", "--tokens")
    assert code == 2 and "of one folder; 2 were given" in err
    for wrong in ("3/2", "0/2", "2", "a/b", "1/2/3", "-1/2"):
        code, _, err = run(*small, "--agent=full", "--shard", wrong)
        assert code == 2 and "hard" in err and "Traceback" not in err


def test_bench_prints_tables_and_writes_rows_report_and_plot(run: Run, small: list[str], tmp_path: Path) -> None:
    code, out, err = run(*small, "--agent=full", "--agent=golden", "--agent=mine.py:Newest")
    assert code == 0
    assert "Accuracy, % [95% interval]" in out and "Loss spike" in out and "golden (hindsight)" in out
    assert "24 new rows, 0 known" in err
    folder = tmp_path / "runs" / "bench" / ENV
    assert len(read_rows(folder / "rows.jsonl").episodes) == 24
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((folder / "report.json").read_text())
    assert {cell["agent"] for cell in saved["cells"]} == {"full", "golden", "newest"}

    code, out, err = run(*small, "--agent=full", "--agent=golden", "--agent=mine.py:Newest", "--json", "--no-plot")
    assert code == 0 and "0 new rows, 24 known" in err
    assert json.loads(out) == saved

    code, out, _ = run("report", folder, "--json", "--plot", tmp_path / "again.png")
    assert code == 0 and json.loads(out) == saved
    assert (tmp_path / "again.png").read_bytes() == (folder / "accuracy.png").read_bytes()


def test_modes_and_seeds(run: Run, small: list[str], tmp_path: Path) -> None:
    code, out, _ = run(*small, "--agent=h2o", "--mode=replay", "--seeds=2", "--width=3", "--split=train", "--out=here")
    assert code == 0 and "after the replayed trace" in out
    rows = read_rows(tmp_path / "here" / "rows.jsonl").episodes.values()
    assert {row.mode for row in rows} == {"replay"} and {row.seed for row in rows} == {0, 1}
    assert {row.split for row in rows} == {"train"} and all(row.problem.startswith("aime/train/0/") for row in rows)


def test_a_raising_agent_is_shown_and_the_exit_code_says_so(run: Run, small: list[str]) -> None:
    code, out, _ = run(*small, "--agent=mine.py:Raises", "--agent=mine.py:Newest")
    assert code == 1
    assert "raises, budget 24: 4 episodes failed and count as wrong. LookupError: no table" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bench", "KVEvict-AMIE-v0"], "UnknownNameError: unknown environment 'KVEvict-AMIE-v0'. Did you mean"),
        (["bench", ENV, "--agent", "h20"], "UnknownNameError: unknown agent 'h20'. Did you mean 'h2o'?"),
        (["bench", ENV, "--agent", "gone.py:A"], "ConfigError: agent file 'gone.py' does not exist"),
        (["bench", ENV, "--budget", "8"], "BudgetError: budget=8 leaves nothing to choose"),
        (["bench", ENV, "--agent", "h2o", "--problems", "0"], "ConfigError: problems=0 leaves nothing to run"),
        (["bench", ENV, "--set", "evict_every"], "ConfigError: --set 'evict_every' has no value"),
        (["bench", ENV, "--set", "evict_evry=8"], "UnknownOptionError: unknown option 'evict_evry'. Did you mean"),
        (["bench", ENV, "--set", "evict_every=many"], "ConfigError: evict_every='many' is not allowed"),
        (["bench", ENV, "--set", "budget=64"], "ConfigError: --set 'budget=64': budget has an option of its own"),
        (["bench", ENV, "--agent", "h2o,lam"], "ConfigError: --agent NAME,'lam' has no value"),
        (
            ["bench", ENV, "--agent", "mine.py:Shifted,bye=1"],
            "UnknownNameError: unknown option 'bye' of agent 'shifted'",
        ),
        (["train", "distill", "--set", "round=3"], "UnknownNameError: unknown knob 'round' of DistillRecipe. Did you"),
        (["report", "gone.jsonl"], "RowFileError: gone.jsonl does not exist"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert err.startswith(message) and "Traceback" not in err


def test_options_of_an_agent_are_in_its_rows(run: Run, small: list[str], tmp_path: Path) -> None:
    code, _, _ = run(*small, "--agent=mine.py:Shifted,by=3", "--agent=mine.py:Shifted", "--mode=replay", "--out=here")
    assert code == 0
    rows = read_rows(tmp_path / "here" / "rows.jsonl").episodes.values()
    assert {row.agent_source for row in rows} == {"mine.py:Shifted(by=3)", "mine.py:Shifted(by=0)"}


def test_nothing_to_play_is_an_error(run: Run, small: list[str]) -> None:
    code, _, err = run(*small[:3], "--budget=800", *small[5:], "--agent=h2o")
    assert code == 2
    assert err.strip().startswith("ConfigError: none of the 2 problems can be played at budget 800")


def test_values_of_settings_are_yaml() -> None:
    texts = ["evict_every=32", "protect_prompt=true", "n_recent=null", "model=a=b", "temperature=0.5"]
    found = parse_settings(texts)
    assert found == {
        "evict_every": 32, "protect_prompt": True, "n_recent": None, "model": "a=b", "temperature": 0.5,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="not YAML"):
        parse_settings(["evict_every=[1"])
    with pytest.raises(ConfigError, match="--missed-attention"):
        parse_settings(["shadow=false"])


def test_agents_are_listed(run: Run) -> None:
    code, out, _ = run("agents")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert code == 0
    assert "kv_agents.heuristics.h2o:H2O" in lines["h2o"] and "total_attention" in lines["h2o"]
    assert "Keep the slots that got the most attention so far" in lines["h2o"]
    assert " yes " in lines["golden"] and " yes " not in lines["h2o"]


def test_a_broken_agent_does_not_hide_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("broken", "no_such_module:A", agents.GROUP), agents.agent_entries()["h2o"]]
    pretend(monkeypatch, agents.GROUP, entries)
    code, out, _ = run("agents")
    assert code == 0 and "ModuleNotFoundError" in out and "kv_agents.heuristics.h2o:H2O" in out


def test_without_agents_the_message_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, agents.GROUP, [])
    code, _, err = run("agents")
    assert code == 2 and "pip install -e ." in err


def test_models_are_listed_with_what_was_measured(run: Run) -> None:
    code, out, err = run("models")
    assert code == 0 and "tiny" in out and "4/2 x 32" in out and "qwen3" in err
    for model in known_models().models:
        for figure in model.measured:
            assert f"{figure.env_id} {figure.accuracy:g}%" in out


def test_a_model_is_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("models", "check", "tiny")
    assert code == 0 and out.count("holds") == 6 and "4 query and 2 KV heads of 32" in out
    evict = SlotCache.evict
    monkeypatch.setattr(SlotCache, "evict", lambda cache, keep: evict(cache, keep.roll(1, 2)))
    code, out, _ = run("models", "check", "tiny")
    assert code == 1 and out.count("DOES NOT HOLD") == 2
    code, _, err = run("models", "check", "tinny")
    assert code == 2 and "UnknownNameError" in err


def test_traces_are_replayed_and_an_official_set_is_solved(run: Run, random_model: Path, tmp_path: Path) -> None:
    """Both kinds of recorded set, end to end, from local files with a small model."""
    row = {"problem": "1 + 1?", "answer": "2"}
    (tmp_path / "set.jsonl").write_text((json.dumps(row) + "\n") * 2)
    (tmp_path / "traces.jsonl").write_text(json.dumps(row | {"trace": "1 + 1 is 2. " * 20 + "\\boxed{2}"}) + "\n")
    small = [f"--set=model={random_model}", "--set=dtype=float32", "--set=evict_every=16", "--set=max_new_tokens=240"]
    for env_id, file, modes in (("Traces", "traces", {"replay"}), ("AIME24", "set", {"generate", "replay"})):
        code, out, _ = run(
            "bench", f"KVEvict-{env_id}-v0", "--agent", "full", "--agent", "h2o", "--budget", 64,
            f"--set=problems={file}.jsonl", "--no-plot", *small,
        )  # fmt: skip
        assert code == 0 and "h2o" in out
        rows = read_rows(tmp_path / "runs" / "bench" / f"KVEvict-{env_id}-v0" / "rows.jsonl").episodes.values()
        assert {r.mode for r in rows} == modes and all(r.failed is None for r in rows)
        assert {r.n_steps > 0 for r in rows if r.agent == "h2o"} == {True}


@pytest.mark.parametrize("problems", ["set.jsonl", "aime"])
def test_an_environment_of_traces_refuses_problems_without_one(
    problems: str, run: Run, random_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "set.jsonl").write_text(json.dumps({"problem": "1 + 1?", "answer": "2", "solution": "Two."}) + "\n")
    code, out, err = run(
        "bench", "KVEvict-Traces-v0", "--agent", "full", "--budget", 64, "--no-plot", f"--set=problems={problems}",
        f"--set=model={random_model}", "--set=evict_every=16",
    )  # fmt: skip
    assert code == 2 and not out and "trace" in err and err.strip().count("\n") == 0
    assert ("1 without a recorded trace (line 1)" if problems == "set.jsonl" else "needs_trace=true") in err


def test_envs_are_listed(run: Run) -> None:
    code, out, _ = run("envs")
    assert code == 0
    assert ENV in out and "1024 aime" in out and "tiny" in out and "64, 128, 192" in out


def test_version(run: Run) -> None:
    assert run("--version")[:2] == (0, "0.1.0\n")


def test_ctrl_c_keeps_rows(run: Run, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from kv_gym.engine.episodes import EpisodeBatch

    def interrupt(batch: EpisodeBatch) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EpisodeBatch, "write", interrupt)
    code, _, err = run(*small, "--agent=full", "--agent=h2o", "--out=here")
    assert code == 130 and "the same command goes on from there" in err
    assert len(read_rows(Path("here/rows.jsonl")).episodes) == 4
