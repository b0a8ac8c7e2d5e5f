"""Workers give the rows of one process, and nothing is lost or doubled when they die."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from kv_gym.agents import AgentLike, load_agent
from kv_gym.bench.benchmark import BenchResult, run_bench
from kv_gym.bench.plan import Bench
from kv_gym.bench.player import about
from kv_gym.bench.workers import TRIES, Crew, Lost, Task, Workers
from kv_gym.commands.main import app
from kv_gym.config import make_config
from kv_gym.errors import ConfigError, KVGymError
from kv_gym.llm.loading import load_llm

pytest.importorskip("ray", reason="workers need Ray")
AGENTS = Path(__file__).parents[2] / "worker_agents.py"
TIMES = {"run_id", "seconds", "scoring_seconds", "tokens_per_second"}


def run(
    path: Path, agents: Sequence[AgentLike], workers: Workers | None = None, problems: int = 4, width: int = 1
) -> BenchResult:
    options = {"evict_every": 16, "max_new_tokens": 400}
    plan = Bench("KVEvict-AIME-v0", agents, [64], problems, modes=["replay"], width=width, options=options)
    return run_bench(plan, path, workers=workers)


def lines(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows if row["kind"] == "episode"]


def by_episode(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(rows, key=lambda row: (str(row["agent"]), str(row["problem"])))


def test_workers_give_the_rows_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with as many threads."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("os.cpu_count", lambda: 2 * threads)
    agents = [load_agent(name) for name in ("full", "rkv", "foresight", "golden")]
    run(tmp_path / "one" / "rows.jsonl", agents)
    result = run(tmp_path / "two" / "rows.jsonl", agents, Workers(2))
    assert result.n_new == len(result.rows) == 16
    one, two = lines(tmp_path / "one" / "rows.jsonl"), lines(tmp_path / "two" / "rows.jsonl")
    assert by_episode(one) == by_episode(two)
    (head,) = result.runs
    assert head.plan["workers"] == 2 and head.threads == threads
    again = run(tmp_path / "two" / "rows.jsonl", agents, Workers(2))
    assert again.n_new == 0


def test_a_worker_that_dies_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """An agent from a file kills three workers; each chunk is tried often enough."""
    dying = load_agent(f"{AGENTS}:Dying", folder=str(tmp_path), deaths=3)
    result = run(tmp_path / "rows.jsonl", [dying], Workers(2, threads=1), problems=4, width=2)
    assert len(list(tmp_path.glob("death-*"))) == 3
    assert [row.failed for row in result.rows] == [None] * 4 and result.n_new == 4
    assert len(lines(tmp_path / "rows.jsonl")) == 4


def test_what_kills_every_worker_or_hangs_has_failed_and_others_go_on(tmp_path: Path) -> None:
    dying = load_agent(f"{AGENTS}:Dying", folder=str(tmp_path), deaths=10**6)
    hanging, good = load_agent(f"{AGENTS}:Hanging"), load_agent("rkv")
    workers = Workers(2, threads=1, chunk_seconds=15)
    result = run(tmp_path / "rows.jsonl", [dying, hanging, good], workers, problems=2, width=2)
    failed = {row.agent: row.failed for row in result.rows}
    assert failed["rkv"] is None
    assert failed["dying"] == f"WorkerDied: its process ended {TRIES} times while these episodes were played."
    assert failed["hanging"] == "WorkerTooSlow: these episodes took longer than 15 seconds."


def test_what_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'locked' cannot be sent to workers: TypeError"):
        run(tmp_path / "rows.jsonl", [load_agent(f"{AGENTS}:Locked")], Workers(1, threads=1))


def test_what_workers_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 workers"):
        Workers(0)
    with pytest.raises(ConfigError, match="chunk_seconds=0"):
        Workers(1, chunk_seconds=0)
    with pytest.raises(ConfigError, match="--ray ADDRESS wants --workers N"):
        CliRunner().invoke(app, ["bench", "KVEvict-AIME-v0", "--ray", "auto"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="--chunk-seconds is a limit for --workers"):
        CliRunner().invoke(app, ["bench", "KVEvict-AIME-v0", "--chunk-seconds", "3"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="Ray cannot be used at '127.0.0.1:1'"):
        run(tmp_path / "rows.jsonl", [load_agent("rkv")], Workers(1, "127.0.0.1:1"))


def test_without_ray_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'kv-gym\[ray\]'"):
        run(tmp_path / "rows.jsonl", [load_agent("rkv")], Workers(1))


def test_workers_of_a_model_or_a_device_that_are_not_there(tmp_path: Path) -> None:
    plan = Bench("KVEvict-AIME-v0", [load_agent("rkv")], [64], 2, options={"model": "/nowhere"})
    with pytest.raises(KVGymError, match="/nowhere"):
        run_bench(plan, tmp_path / "rows.jsonl", workers=Workers(1))
    plan = Bench("KVEvict-AIME-v0", [load_agent("rkv")], [64], 2, options={"device": "cuda"})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--workers 1: each takes a GPU, and here there are 0"):
            run_bench(plan, tmp_path / "rows.jsonl", workers=Workers(1))


def test_workers_have_the_model_and_the_versions_of_the_process_that_uses_it_too() -> None:
    config = make_config("KVEvict-AIME-v0")
    llm = load_llm("tiny")
    crew = Crew(Workers(1), config, llm)
    same = about(llm, config)
    crew._check([same, same])
    for name in ("fingerprint", "computation"):
        with pytest.raises(ConfigError, match=f"a worker's {name} are another"):
            crew._check([replace(same, **{name: "another"})] * 2)
    Crew(Workers(1), config)._check([replace(same, fingerprint="another")] * 2)


class FakeRay:
    """Ray with a clock of its own: tasks end when it says, and starting a worker takes 20 seconds."""

    class exceptions:
        RayActorError, RayTaskError = KeyError, ValueError

    def __init__(self) -> None:
        self.now, self.ends, self.results = 0.0, {}, {}

    def start(self, result: object, seconds: float) -> object:
        ref = object()
        self.ends[ref], self.results[ref] = self.now + seconds, result
        return ref

    def wait(self, refs: list[object], num_returns: int, timeout: float) -> tuple[list[object], list[object]]:
        if timeout and refs:
            self.now = max(self.now, min(self.now + timeout, min(self.ends[ref] for ref in refs)))
        ready = [ref for ref in refs if self.ends[ref] <= self.now][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: object) -> object:
        if isinstance(self.results[ref], Exception):
            raise self.results[ref]
        return self.results[ref]

    def kill(self, player: object) -> None:
        pass


class FakePlayer:
    """A worker whose methods take as long as their argument says; below 0 it dies at once."""

    def __init__(self, ray: FakeRay) -> None:
        self.play = SimpleNamespace(
            remote=lambda seconds: ray.start(KeyError("dead") if seconds < 0 else seconds, max(0, seconds))
        )
        self.about = SimpleNamespace(remote=lambda: ray.start("about", 20))


def fake_crew(ray: FakeRay, n: int, monkeypatch: pytest.MonkeyPatch) -> Crew:
    """So many fake workers at the clock of `ray`."""
    crew = Crew.__new__(Crew)
    crew.workers, crew.about, crew._ray, crew._failed_starts = Workers(n, chunk_seconds=15), "about", ray, 0  # type: ignore[assignment]
    crew._players = [FakePlayer(ray) for _ in range(n)]
    monkeypatch.setattr(crew, "_player", lambda: FakePlayer(ray))
    monkeypatch.setattr(crew, "_check", lambda found: None)
    monkeypatch.setattr("kv_gym.bench.workers.time.monotonic", lambda: ray.now)
    return crew


@pytest.mark.parametrize(("n", "seconds"), [(1, 152), (2, 76), (4, 38)])
def test_so_many_slow_workers_take_that_part_of_the_time(
    n: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 chunks of 9 or 10 seconds."""
    ray = FakeRay()
    crew = fake_crew(ray, n, monkeypatch)
    assert len(list(crew.do([Task("play", (9 + i // 8,), i) for i in range(16)]))) == 16
    assert ray.now == seconds


@pytest.mark.parametrize("seconds", [[-1, 2, 2, 2, 2], [2, 100, 2, 2, 2], [14, 14, 14, 14, 14, 14, -1]])
def test_only_what_really_takes_too_long_is_given_up(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """While others start anew, or many end at once."""
    ray = FakeRay()
    crew = fake_crew(ray, 4, monkeypatch)
    found = {task.of: result for task, result in crew.do([Task("play", (s,), i) for i, s in enumerate(seconds)])}
    assert sorted(found) == list(range(len(seconds)))
    for i, value in enumerate(seconds):
        assert isinstance(found[i], Lost) == (not 0 <= value <= 15), (i, found[i])
