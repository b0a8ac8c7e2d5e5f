"""Rows of a benchmark are those of the engine, each once, however often the run is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.golden import Golden
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.random import Random
from kv_agents.heuristics.streaming import Streaming
from torch import Tensor

from kv_gym.agents import load_agent
from kv_gym.bench import play
from kv_gym.bench.benchmark import BenchResult, run_bench
from kv_gym.bench.plan import Bench
from kv_gym.bench.rows import EpisodeRow, RowFile, read_rows
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.measures import result_columns
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.engine.slots import SlotView
from kv_gym.errors import BudgetError, ConfigError, UndecidedError, UnknownNameError
from kv_gym.files import InUseError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import forget_llm, load_llm
from kv_gym.problems import problem_source

ENV = "KVEvict-AIME-v0"


class FailsLater(Agent):
    """Raises once an episode is at its fourth decision."""

    name = "fails-later"

    def score(self, slots: SlotView) -> Tensor:
        """Keep the newest, or raise."""
        if int(slots.decision.max()) >= 3:
            raise KeyError("head 7")
        return slots.positions.float()


class NotANumber(Agent):
    """Gives NaN."""

    name = "not-a-number"

    def score(self, slots: SlotView) -> Tensor:
        """Give NaN."""
        return torch.full(slots.shape, torch.nan)


class Watcher(Random):
    """Notes whether it gets hindsight."""

    name = "watcher"

    def __init__(self) -> None:
        self.saw: list[Any] = []

    def score(self, slots: SlotView) -> Tensor:
        """Look, then draw."""
        self.saw.append(slots.hindsight)
        return super().score(slots)


def content(row: EpisodeRow) -> dict[str, Any]:
    """All but what differs from run to run: times, and the last digits of sums over a batch."""
    values = row.model_dump(exclude={"run_id", "seconds", "scoring_seconds", "tokens_per_second"})
    return {name: pytest.approx(value) if isinstance(value, float) else value for name, value in values.items()}


def by_key(result: BenchResult) -> dict[Any, dict[str, Any]]:
    return {row.key: content(row) for row in result.rows}


def frozen(bench: Bench) -> FrozenLLM:
    config = bench.config(24, "replay")
    return load_llm(config.model, config.revision, config.dtype, config.device)


def references(bench: Bench, n: int = 3) -> list[Reference]:
    source = problem_source("aime")
    store = ReferenceStore(frozen(bench), bench.config(24, "replay"))
    return store.get([source.problem("test", 0, i) for i in range(n)])


@pytest.fixture(scope="module")
def small(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One agent, one budget, both modes, three problems of a few decisions each: 6 rows; references of its own."""
    options = {"model": str(random_model), "max_new_tokens": 72, "evict_every": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KV_GYM_CACHE", str(tmp_path_factory.mktemp("references")))
        yield Bench(ENV, [Random()], [24], problems=3, options=options)


@pytest.fixture(scope="module")
def wide(small: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchResult]:
    """A whole run: four agents, two budgets, both modes."""
    path = tmp_path_factory.mktemp("wide") / "rows.jsonl"
    agents = [FullCache(), Golden(), Random(), Streaming()]
    return path, run_bench(replace(small, agents=agents, budgets=[24, 40], seeds=2), path)


def test_every_cell_has_a_row_for_every_problem_and_seed(wide: tuple[Path, BenchResult]) -> None:
    path, result = wide
    cells = Counter((row.agent, row.budget, row.mode) for row in result.rows)
    assert len(cells) == 4 * 2 * 2 and set(cells.values()) == {3 * 2}
    assert len({row.key for row in result.rows}) == len(result.rows) == result.n_new
    assert {(row.problem, row.family, row.seed) for row in result.rows} == {
        (f"aime/test/0/{i}", family, seed) for i, family in enumerate(("graph", "ledger", "lag")) for seed in (0, 1)
    }
    assert {row.key for row in result.rows} == set(read_rows(path).episodes)


def test_rows_lead_to_all_provenance(small: Bench, wide: tuple[Path, BenchResult]) -> None:
    _, result = wide
    (run,) = result.runs
    llm = frozen(small)
    assert {row.run_id for row in result.rows} == {run.run_id}
    assert {row.model_fingerprint for row in result.rows} == {llm.fingerprint} == {run.model["fingerprint"]}
    assert run.threads == torch.get_num_threads() and run.width == 64  # on a CPU, where they fit
    assert run.settings["evict_every"] == 8 and run.settings["max_new_tokens"] == 72
    assert not {"budget", "mode", "model", "w_loss", "n_problems", "hindsight"} & set(run.settings)
    assert {row.settings_sha256 for row in result.rows} == {run.settings_sha256}
    assert all(len(row.reference_hash) == len(row.problem_sha256) == len(row.agent_sha256) == 64 for row in result.rows)
    (source,) = {row.agent_source for row in result.rows if row.agent == "streaming"}
    assert source == "kv_agents.heuristics.streaming:Streaming(n_sink=4)"


def test_losses_are_measured_in_replay_only(wide: tuple[Path, BenchResult]) -> None:
    for row in wide[1].rows:
        columns = ("loss", "loss_full", "loss_spike")
        measured = [row.measured(column) for column in columns]
        assert all((value is not None) == (row.mode == "replay") for value in measured)
        assert all(row.measured(name) is None for name in ("attention_spike", "missed_attention")) or not row.evicts
        assert row.correct is not None and row.stop in ("eos", "length") and row.failed is None


def test_missed_attention_is_measured_when_asked_for(small: Bench, tmp_path: Path) -> None:
    plain = replace(small, agents=[Streaming()], budgets=[40], modes=["replay"], problems=2, seeds=1)
    watched, path = replace(plain, missed_attention=True), tmp_path / "rows.jsonl"
    before = run_bench(plain, path)
    after = run_bench(watched, path)  # what was not measured is played again, and counts
    assert before.n_new == after.n_new == 2 and run_bench(watched, path).n_new == run_bench(plain, path).n_new == 0
    for old, new in zip(before.rows, after.rows, strict=True):
        assert old.measured("missed_attention") is None
        assert 0 < (new.measured("missed_attention") or 0) < 1 and new.measured("attention_spike") is not None
        assert (new.key, new.actions_sha256, new.measured("loss")) == (
            old.key,
            old.actions_sha256,
            old.measured("loss"),
        )


@pytest.mark.parametrize("mode", ["generate", "replay"])
def test_a_row_is_what_the_engine_gives(small: Bench, wide: tuple[Path, BenchResult], mode: str) -> None:
    agent, texts = Streaming(), references(small)
    batch = EpisodeBatch(frozen(small), small.config(40, mode), 3, statistics=())
    batch.reset(range(3), texts, [0, 0, 0])
    while batch.active.any():
        batch.step(agent.score(batch.slots()))
    rows = [row for row in wide[1].rows if (row.agent, row.budget, row.mode, row.seed) == ("streaming", 40, mode, 0)]
    for i, row in enumerate(rows):
        record = batch.record(i)
        assert row.problem == texts[i].problem.id and row.reference_hash == texts[i].hash
        assert (row.tokens_sha256, row.actions_sha256) == (record.tokens_sha256, record.actions_sha256)
        assert (row.correct, row.stop, row.n_tokens, row.n_steps) == (
            record.correct, record.stop, record.n_tokens, record.n_steps,
        )  # fmt: skip
        assert row.kv_bytes_peak == row.kv_bytes_mean == batch.cache.nbytes
        assert row.seconds and row.seconds > 0 and row.tokens_per_second and row.tokens_per_second > 0
        if mode == "replay":
            assert record.measured.keys() == result_columns().keys() and not math.isnan(record.measured["loss"])
            for column, value in record.measured.items():
                assert row.measured(column) == (None if math.isnan(value) else pytest.approx(value))


def test_full_cache_rows_come_from_the_reference(small: Bench, wide: tuple[Path, BenchResult]) -> None:
    texts = {text.problem.id: text for text in references(small)}
    others = {
        (row.problem, row.budget): row.measured("loss_full")
        for row in wide[1].rows
        if row.mode == "replay" and row.agent == "streaming" and row.seed == 0
    }
    slot_bytes = frozen(small).shape.slot_bytes
    for row in (row for row in wide[1].rows if row.agent == "full"):
        text = texts[row.problem]
        assert (row.correct, row.stop, row.n_steps) == (text.correct, text.stop, 0)
        assert row.n_tokens == len(text) - text.n_prompt
        assert row.kv_bytes_peak == (len(text) - 1) * slot_bytes
        held = range(text.n_prompt, len(text))  # slots at each choice of a token
        assert row.kv_bytes_mean == pytest.approx(sum(held) / len(held) * slot_bytes)
        assert row.tokens_per_second and row.tokens_per_second > 0  # generated in this run
        if row.mode == "replay":
            assert row.measured("loss_spike") == row.measured("missed_attention") == 0
            assert (
                row.measured("loss")
                == row.measured("loss_full")
                == pytest.approx(others[row.problem, row.budget], abs=1e-6)
            )


def test_the_speed_of_stored_references_is_unknown(
    small: Bench, wide: tuple[Path, BenchResult], tmp_path: Path
) -> None:
    rows = run_bench(replace(small, agents=[FullCache()]), tmp_path / "rows.jsonl").rows
    assert {(row.tokens_per_second, row.seconds) for row in rows} == {(None, None)}


def test_refilled_rows_play_the_same_episodes(small: Bench, wide: tuple[Path, BenchResult], tmp_path: Path) -> None:
    narrow = run_bench(replace(small, agents=[Golden(), Random()], seeds=2, width=2), tmp_path / "rows.jsonl")
    expected = by_key(wide[1])
    assert len(narrow.rows) == 2 * 2 * 6
    for row in narrow.rows:
        assert content(row) == expected[row.key]


def test_ended_rows_are_refilled_at_once(small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    widths: list[int] = []
    write = EpisodeBatch.write

    def counting(batch: EpisodeBatch) -> Any:
        widths.append(int(batch.active.sum()))
        return write(batch)

    monkeypatch.setattr(EpisodeBatch, "write", counting)
    run_bench(replace(small, problems=6, width=2, modes=["replay"]), tmp_path / "rows.jsonl")
    assert widths == sorted(widths, reverse=True) and widths.count(2) > 4 * widths.count(1)


def test_the_seconds_of_a_cell_sum_to_its_time(small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a clock that moves one second whenever it is read: four times a step, so it takes three, and its agent one."""
    ticks, steps = iter(range(100_000)), Counter[str]()
    write = EpisodeBatch.write

    def counting(batch: EpisodeBatch) -> Any:
        steps["n"] += 1
        return write(batch)

    monkeypatch.setattr(EpisodeBatch, "write", counting)
    monkeypatch.setattr(play.time, "perf_counter", lambda: float(next(ticks)))
    rows = run_bench(replace(small, width=2, modes=["replay"]), tmp_path / "rows.jsonl").rows
    assert sum(row.seconds or 0 for row in rows) == pytest.approx(3 * steps["n"])
    assert sum(row.scoring_seconds or 0 for row in rows) == pytest.approx(steps["n"])


def test_an_agent_that_refuses_the_model_stops_the_run_before_any_row(small: Bench, tmp_path: Path) -> None:
    class Refuses(Random):
        name = "refuses"

        def prepare(self, llm: FrozenLLM) -> None:
            raise ConfigError(f"not made for {llm.name}")

    with pytest.raises(ConfigError, match="not made for"):
        run_bench(replace(small, agents=[Random(), Refuses()]), tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").read_text()


def test_only_agents_with_hindsight_get_it(small: Bench, tmp_path: Path) -> None:
    agent = Watcher()
    run_bench(replace(small, agents=[agent], problems=1), tmp_path / "rows.jsonl")
    assert agent.saw and set(agent.saw) == {None}


def test_answers_are_graded(small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The random model knows no answer; here every other problem counts as solved."""
    golds = [text.problem.answer for text in references(small)]
    monkeypatch.setattr("kv_gym.engine.episodes.grade", lambda text, gold, graded: float(gold != golds[1]))
    rows = run_bench(replace(small, modes=["generate"]), tmp_path / "rows.jsonl").rows
    assert sorted((row.problem, row.correct, row.correct_full) for row in rows) == [
        ("aime/test/0/0", True, False), ("aime/test/0/1", False, False), ("aime/test/0/2", True, False),
    ]  # fmt: skip


def undecided(text: str, gold: str, graded: str) -> float:
    raise UndecidedError("comparing took over 2 s")


def test_an_answer_without_a_verdict_fails_its_episode(
    small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    golds = [text.problem.answer for text in references(small)]
    monkeypatch.setattr(
        "kv_gym.engine.episodes.grade",
        lambda text, gold, graded: 1.0 if gold != golds[1] else undecided(text, gold, graded),
    )
    result = run_bench(replace(small, modes=["generate"]), tmp_path / "rows.jsonl")
    rows = sorted(result.rows, key=lambda row: row.problem)
    why = "UndecidedError: the answer to aime/test/0/1: comparing took over 2 s"
    assert [row.failed for row in rows] == [None, why, None]
    assert [row.correct for row in rows] == [1.0, None, 1.0] and rows[1].n_tokens is None
    assert run_bench(replace(small, modes=["generate"]), tmp_path / "rows.jsonl").n_new == 0


def test_a_full_cache_without_a_verdict_fails_all_episodes_of_its_problem(
    small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path / "references"))
    monkeypatch.setattr("kv_gym.engine.reference.grade", undecided)
    bench = replace(small, agents=[FullCache(), Random()], problems=1)
    rows = run_bench(bench, tmp_path / "rows.jsonl").rows
    why = "UndecidedError: the full cache's answer to aime/test/0/0: comparing took over 2 s"
    assert len(rows) > 2 and {row.failed for row in rows} == {why}
    assert {(row.correct, row.correct_full) for row in rows} == {(None, 0.0)}
    monkeypatch.setattr("kv_gym.engine.reference.grade", lambda text, gold, graded: 0.0)
    assert {row.failed for row in run_bench(bench, tmp_path / "others.jsonl").rows} == {None}


def test_a_raising_agent_is_recorded_and_the_next_cell_goes_on(small: Bench, tmp_path: Path) -> None:
    bench = replace(small, agents=[FailsLater(), NotANumber(), Random()], modes=["replay"])
    rows = run_bench(bench, tmp_path / "rows.jsonl").rows
    failed = {agent: [row.failed for row in rows if row.agent == agent] for agent in ("fails-later", "not-a-number")}
    assert failed["fails-later"] == ["KeyError: 'head 7'"] * 3
    assert all(reason and reason.startswith("ScoreError: keep score of episode 0") for reason in failed["not-a-number"])
    assert all(row.correct is None and row.measured("loss") is None for row in rows if row.failed)
    assert all(row.failed is None and row.correct is not None for row in rows if row.agent == "random")
    assert run_bench(bench, tmp_path / "rows.jsonl").n_new == 0


def test_only_the_episodes_in_which_an_agent_raises_have_failed(small: Bench, tmp_path: Path) -> None:
    class FailsSecond(Random):
        name = "fails-second"

        def score(self, slots: SlotView) -> Tensor:
            if int(slots.seeds[0]) == 1:
                raise RuntimeError("second seed")
            return super().score(slots)

    bench = replace(small, agents=[FailsSecond()], problems=1, seeds=3, width=1, modes=["replay"])
    rows = run_bench(bench, tmp_path / "rows.jsonl").rows
    assert [row.failed for row in rows] == [None, "RuntimeError: second seed", None]


def test_an_error_of_the_suite_is_not_the_agents(small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(batch: EpisodeBatch) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(EpisodeBatch, "write", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_bench(small, tmp_path / "rows.jsonl")
    assert not read_rows(tmp_path / "rows.jsonl").episodes


def test_a_finished_run_adds_nothing(small: Bench, wide: tuple[Path, BenchResult], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = run_bench(small, path)
    before = path.read_bytes()
    again = run_bench(small, path)
    assert path.read_bytes() == before
    assert again.n_new == 0 and again.rows == first.rows and again.runs == first.runs


def test_a_run_goes_on_wherever_its_file_was_cut(small: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = run_bench(small, path)
    data = path.read_bytes()
    for cut in (40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        kept = max(0, (data[:cut] + b"\n" * (cut == len(data) - 1)).count(b"\n") - 1)  # the last lacks its newline only
        resumed = run_bench(small, path)
        assert resumed.n_new == 6 - kept
        assert by_key(resumed) == by_key(whole)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        keys = [line["problem"] + line["mode"] for line in lines if line["kind"] == "episode"]
        assert len(keys) == len(set(keys)) == 6


SLOW = """
import time

from kv_agents.heuristics.random import Random


class Slow(Random):
    name = "slow"

    def score(self, slots):
        time.sleep(0.03)
        return super().score(slots)
"""


def test_a_killed_run_loses_and_repeats_nothing(small: Bench, tmp_path: Path) -> None:
    """SIGKILL in the middle of a cell, then the same command: as if it had never been killed."""
    mine = tmp_path / "mine.py"
    mine.write_text(SLOW)
    folder = tmp_path / "killed"
    path = folder / "rows.jsonl"
    command = [sys.executable, "-m", "kv_gym.commands.main", "bench", ENV, "--agent", f"{mine}:Slow", "--budget", "24"]
    command += ["--problems", "4", "--width", "2", *[f"--set={name}={value}" for name, value in small.options.items()]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*command, "--out", str(folder)], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while (not path.exists() or path.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = path.read_bytes()
    done = before.count(b"\n") - 1
    assert 3 <= done < 8
    bench = Bench(ENV, [load_agent(f"{mine}:Slow")], [24], problems=4, width=2, options=small.options)
    resumed = run_bench(bench, path)
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert resumed.n_new == 8 - done and len(resumed.runs) == 2
    assert path.read_bytes().count(b"\n") == 8 + 2
    assert by_key(resumed) == by_key(run_bench(bench, tmp_path / "whole.jsonl"))


def test_rows_of_other_settings_are_left_alone(small: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = run_bench(small, path)
    other = run_bench(replace(small, options={**small.options, "loss_threshold": 0.5}), path)
    assert other.n_new == 6 and not {row.key for row in first.rows} & {row.key for row in other.rows}
    no_matter = {"w_loss": 0.5, "n_recent": 8, "granularity": "head"}
    same = run_bench(replace(small, options={**small.options, **no_matter}), path)
    assert same.n_new == 0 and same.rows == first.rows
    for matters in ({"n_recent": 4}, {"granularity": "token"}):
        assert run_bench(replace(small, options={**small.options, **matters}), path).n_new == 6
    assert len(read_rows(path).episodes) == 24


def test_rows_of_another_model_are_left_alone(small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    run_bench(small, path)
    with monkeypatch.context() as patch:
        patch.setattr("kv_gym.llm.frozen.fingerprint", lambda *_: "f" * 64)
        forget_llm()
        assert run_bench(small, path).n_new == 6
    forget_llm()


def test_a_changed_agent_file_is_another_agent(small: Bench, tmp_path: Path) -> None:
    mine, path = tmp_path / "mine.py", tmp_path / "rows.jsonl"
    for text, new in ((SLOW, 2), (SLOW, 0), (SLOW.replace("0.03", "0.0"), 2)):
        mine.write_text(text)
        bench = replace(small, agents=[load_agent(f"{mine}:Slow")], problems=1)
        assert run_bench(bench, path).n_new == new


def test_an_agent_that_is_named_twice_runs_once(small: Bench, tmp_path: Path) -> None:
    result = run_bench(replace(small, agents=[Random(), Streaming(), Random(), Streaming(n_sink=2)]), tmp_path / "r")
    assert Counter(row.agent_source.rpartition(":")[2] for row in result.rows) == {
        "Random": 6, "Streaming(n_sink=4)": 6, "Streaming(n_sink=2)": 6,
    }  # fmt: skip
    assert result.n_new == 18


def test_problems_that_cannot_be_played_are_left_out_and_counted(small: Bench, tmp_path: Path) -> None:
    texts = references(small, 6)
    lengths = sorted(len(text) for text in texts)
    budget = lengths[2] - 3 * 8  # the third shortest just fits
    playable = [t.problem.id for t in texts if is_playable(t, small.config(budget, "replay"))]
    assert 0 < len(playable) < 6
    result = run_bench(replace(small, problems=6, budgets=[budget, 400]), tmp_path / "rows.jsonl")
    assert sorted({row.problem for row in result.rows}) == playable
    assert sorted([*result.left_out[budget], *playable]) == [text.problem.id for text in texts]
    assert len(result.left_out[400]) == 6
    assert result.runs[0].left_out == result.left_out


def test_prompts_that_fill_a_protected_budget_are_left_out(small: Bench, tmp_path: Path) -> None:
    result = run_bench(replace(small, options={**small.options, "protect_prompt": True}), tmp_path / "rows.jsonl")
    fits = [text.problem.id for text in references(small) if text.n_prompt + 8 < 24]
    assert sorted({row.problem for row in result.rows}) == fits
    assert len(result.left_out[24]) == 3 - len(fits) > 0


def test_a_second_process_is_refused(small: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with RowFile(path), pytest.raises(InUseError, match="another process"):
        run_bench(small, path)


def test_mistakes_show_before_anything_runs(small: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(BudgetError, match="budget=8"):
        run_bench(replace(small, budgets=[24, 8]), path)
    with pytest.raises(UnknownNameError, match="evict_evry"):
        run_bench(replace(small, options={"evict_evry": 8}), path)
    with pytest.raises(ConfigError, match="width=0 leaves nothing to run"):
        replace(small, width=0)
    with pytest.raises(ConfigError, match="no agent"):
        replace(small, agents=[])
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problems": 10**20}, "problems=100000000000000000000 x seeds=1 x problem_seeds=1 are more than 1,000,000"),
        ({"seeds": 10**6}, "are more than 1,000,000 episodes. Ask for fewer"),
        ({"problem_seeds": 10**20}, "are more than 1,000,000 episodes"),
        ({"width": 10**20}, "is more than 65,536 episodes side by side"),
        ({"options": {"n_problems": 10**20}}, "n_problems is what `problems` says"),
    ],
)
def test_sizes_are_bounded(small: Bench, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(small, **changes)


def test_the_last_problem_seed_is_one(small: Bench, tmp_path: Path) -> None:
    last = {**small.options, "problem_seed": 2**32 - 1}
    assert run_bench(replace(small, problems=1, options=last), tmp_path / "rows.jsonl").left_out is not None
    with pytest.raises(ConfigError, match="problem_seed=4294967295 \\+ problem_seeds=2 is above 4294967296"):
        run_bench(replace(small, problems=1, problem_seeds=2, options=last), tmp_path / "rows.jsonl")


def test_defaults_come_from_the_page() -> None:
    bench = Bench(ENV, [Random()])
    assert bench.budgets == (64, 128, 192) and bench.problems == 32 and bench.modes == ("generate", "replay")


def test_progress_counts_what_is_left(small: Bench, tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.totals: dict[str, int] = {}
            self.done: Counter[str] = Counter()
            self.texts: list[str] = []

        def begin(self, stage: str, total: int) -> None:
            self.stage = stage
            self.totals[stage] = total

        def describe(self, text: str) -> None:
            self.texts.append(text)

        def advance(self, n: int) -> None:
            self.done[self.stage] += n

    path = tmp_path / "rows.jsonl"
    run_bench(replace(small, problems=2), path)
    notes = Notes()
    run_bench(small, path, notes)
    assert notes.totals["episodes"] == notes.done["episodes"] == 2
    assert notes.texts == ["random, budget 24, generate", "random, budget 24, replay"]


def test_problem_seeds_add_problems_of_other_seeds(small: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    options = {**small.options, "evict_every": 8}
    bench = replace(small, problems=2, modes=["replay"], options=options)
    once = run_bench(bench, path)
    fresh = run_bench(replace(bench, problem_seeds=3), path)
    assert [row.problem for row in once.rows] == ["aime/test/0/0", "aime/test/0/1"]
    expected = [f"aime/test/{seed}/{i}" for seed in range(3) for i in range(2)]
    assert sorted(row.problem for row in fresh.rows) == expected and fresh.n_new == 4
    assert next(reversed(fresh.runs)).plan["problem_seeds"] == [0, 1, 2]
    shifted = run_bench(replace(bench, problem_seeds=2, options=options | {"problem_seed": 1}), path)
    assert shifted.n_new == 0 and len(shifted.rows) == 4


def test_problem_seeds_of_a_fixed_set_are_refused(small: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    options = {**small.options, "problems": str(tmp_path / "mine.jsonl")}
    with pytest.raises(ConfigError, match="problem_seeds=2: .* is one set that no seed changes"):
        run_bench(replace(small, problem_seeds=2, options=options), tmp_path / "rows.jsonl")
