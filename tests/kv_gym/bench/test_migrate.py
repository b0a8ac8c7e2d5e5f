"""Rows of an older version are carried over where playing some again gives what is written down, and only there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kv_agents.base import Agent
from kv_agents.golden import Golden
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.streaming import Streaming

from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.migrate import MigratedCell, agent_now, migrate
from kv_gym.bench.plan import Bench
from kv_gym.bench.progress import Silent
from kv_gym.bench.report import newest_rows
from kv_gym.bench.rows import EpisodeRow, RowFileError, Rows, RunRow, packed, read_rows
from kv_gym.bench.texts import read_texts, rename_texts, text_key
from kv_gym.commands import main as cli
from kv_gym.commands.console import console
from kv_gym.commands.migrate import _table
from kv_gym.errors import ConfigError
from kv_gym.files import write_whole
from kv_gym.identity import identity_of
from kv_gym.problems.grading import GRADING_VERSION

Edit = Callable[[EpisodeRow], dict[str, Any]]


@pytest.fixture(scope="module")
def bench(random_model: Path) -> Bench:
    options = {"model": str(random_model), "max_new_tokens": 72, "evict_every": 8}
    return Bench("KVEvict-AIME-v0", [Streaming(), FullCache()], [24], problems=3, options=options)


@pytest.fixture(scope="module")
def made(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("made") / "rows.jsonl"
    run_bench(bench, path)
    return read_rows(path)


def older(rows: Rows, path: Path, edit: Edit = lambda _: {}) -> Path:
    """Write rows as an older version would have: known by other hashes, and without some."""
    (run,) = rows.runs.values()
    old = run.model_copy(update={"run_id": "", "agents": {}, "command": "an older version"}).signed()
    changed = [
        row.model_copy(
            update={
                "run_id": old.run_id, "agent_sha256": "0" * 64, "reference_hash": "1" * 64, "problem_sha256": "2" * 64,
                "computation": "", "grading": 1,
                "agent_source": row.agent_source.replace("kv_agents.heuristics", "elsewhere"),
                **edit(row),
            }
        )
        for row in rows.episodes.values()
    ]  # fmt: skip
    path.write_bytes(packed([old, *changed], path))
    return path


def results(cells: list[MigratedCell]) -> dict[tuple[str, str], str]:
    return {(cell.agent, cell.mode): cell.kept for cell in cells}


@pytest.mark.parametrize(("name", "grading"), [("rows.jsonl", 1), ("rows.jsonl.gz", GRADING_VERSION - 1)])
def test_rows_that_come_out_the_same_are_known_again(
    bench: Bench, made: Rows, tmp_path: Path, name: str, grading: int
) -> None:
    path = older(made, tmp_path / name, lambda _: {"grading": grading})
    assert {row.grading for row in newest_rows(read_rows(path))} == {grading}, "a report reads rows of any version"
    cells = migrate(path, bench.agents, 2, Silent())
    assert {(c.agent, c.mode): (c.n_rows, c.n_sampled, c.kept) for c in cells} == {
        ("streaming", "generate"): (3, 2, ""), ("streaming", "replay"): (3, 2, ""),
        ("full", "generate"): (3, 3, ""), ("full", "replay"): (3, 3, ""),
    }  # fmt: skip
    now = read_rows(path)
    plain = [[row.model_dump(exclude={"run_id"}) for row in rows.episodes.values()] for rows in (now, made)]
    assert plain[0] == plain[1]
    (run,) = now.runs.values()
    assert (
        run.migrated is not None
        and run.migrated["from"]
        and set(run.agents) == {row.agent_sha256 for row in made.episodes.values()}
    )
    if name == "rows.jsonl":
        assert run_bench(bench, path).n_new == 0
    assert migrate(path, bench.agents, 2, Silent()) == []  # nothing is left to do


@pytest.mark.parametrize(
    "wrong", [{"tokens_sha256": "3" * 64}, {"actions_sha256": "3" * 64}, {"n_steps": 99}, {"correct": 1.0}]
)
def test_rows_that_come_out_otherwise_stay(bench: Bench, made: Rows, tmp_path: Path, wrong: dict[str, Any]) -> None:
    def edit(row: EpisodeRow) -> dict[str, Any]:
        assert row.correct == 0  # of a random model
        return wrong if row.agent == "streaming" and row.mode == "generate" else {}

    path = older(made, tmp_path / "rows.jsonl", edit)
    before = read_rows(path)
    found = results(migrate(path, bench.agents, 3, Silent()))
    assert found["streaming", "generate"].startswith("3 of 3 come out otherwise")
    assert found["streaming", "replay"] == found["full", "generate"] == ""
    after = read_rows(path)
    stays = [row for row in after.episodes.values() if row.agent_sha256 == "0" * 64]
    assert stays == [row for row in before.episodes.values() if (row.agent, row.mode) == ("streaming", "generate")]
    assert run_bench(bench, path).n_new == 3


def test_texts_move_with_their_rows(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    run_bench(replace(bench, texts=True), path)
    rows = read_rows(path)
    known = list(rows.episodes.values())
    older(rows, path)
    before = read_rows(path).episodes.values()
    old = {text_key(row): text_key(now) for row, now in zip(before, known, strict=True)}
    assert {text["key"] for text in read_texts(tmp_path)} == set(old.values())
    rename_texts(tmp_path, {now: then for then, now in old.items()}, keep=False)
    assert {text["key"] for text in read_texts(tmp_path)} == set(old)
    written = []
    monkeypatch.setattr(
        "kv_gym.bench.migrate.write_whole",
        lambda path, data: (written.append({text["key"] for text in read_texts(tmp_path)}), write_whole(path, data)),
    )
    migrate(path, bench.agents, 1, Silent())
    assert written == [set(old) | set(old.values())], "a kill beside the rows' write loses no text"
    assert {text["key"] for text in read_texts(tmp_path)} == set(old.values())
    run_bench(replace(bench, texts=True), path)
    assert len(read_rows(path).runs) == 1, "nothing was played again"


def test_a_loss_that_moved_is_seen(bench: Bench, made: Rows, tmp_path: Path) -> None:
    def edit(row: EpisodeRow) -> dict[str, Any]:
        loss = row.measured("loss")
        return {} if loss is None else {"loss": loss * 1.01}

    found = results(migrate(older(made, tmp_path / "rows.jsonl", edit), bench.agents, 3, Silent()))
    assert "come out otherwise" in found["streaming", "replay"]


def test_an_agent_that_is_not_there_keeps_its_rows(bench: Bench, made: Rows, tmp_path: Path) -> None:
    path = older(made, tmp_path / "rows.jsonl")
    found = results(migrate(path, [FullCache(), Streaming(n_sink=2)], 3, Silent()))
    assert "name it with --agent" in found["streaming", "generate"] and found["full", "replay"] == ""


def test_what_cannot_be_compared_is_refused(bench: Bench, made: Rows, tmp_path: Path) -> None:
    def rewritten(**changes: Any) -> Path:
        path = older(made, tmp_path / "rows.jsonl")
        (run,), rows = read_rows(path).runs.values(), read_rows(path).episodes.values()
        other: RunRow = run.model_copy(update={"run_id": "", **changes}).signed()
        path.write_bytes(packed([other, *(row.model_copy(update={"run_id": other.run_id}) for row in rows)], path))
        return path

    (run,) = made.runs.values()
    for changes, words in (
        ({"versions": run.versions | {"torch": "1.0.0"}}, "computed by float32 cpu eager torch-1.0"),
        ({"model": run.model | {"fingerprint": "f" * 64}}, "not the one that made these rows"),
        ({"settings_sha256": "f" * 64}, "are others in this version"),
    ):
        path = rewritten(**changes)
        data = path.read_bytes()
        with pytest.raises(ConfigError, match=words):
            migrate(path, bench.agents, 2, Silent())
        assert path.read_bytes() == data
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(RowFileError, match="holds no episodes"):
        migrate(tmp_path / "empty.jsonl", bench.agents, 2, Silent())


def test_the_agent_with_all_of_the_settings_and_fewest_more_is_meant() -> None:
    agents: list[tuple[Agent, Any]] = [(one, identity_of(one)) for one in (Streaming(), Streaming(n_sink=8), Golden())]
    assert agent_now("old.place:Streaming(n_sink=8)", agents) == agents[1]
    assert agent_now("kv_agents.golden:Golden", agents) == agents[2]
    assert agent_now("old.place:Streaming(n_sink=3)", agents) is None
    assert agent_now("old.place:Streaming", agents) is None  # either could be meant


def test_the_command_tells_what_stayed(
    bench: Bench, made: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = older(made, tmp_path / "rows.jsonl", lambda row: {"n_tokens": 999} if row.agent == "full" else {})
    with pytest.raises(SystemExit) as ended:
        cli.main(["migrate", str(path), "--sample", "1"])
    told = capsys.readouterr()
    assert ended.value.code == 1 and "stay as they are: 3 of 3 come out otherwise" in told.out
    assert "6 of 12 rows carried over" in told.err
    with pytest.raises(SystemExit):
        cli.main(["migrate", str(path), "--sample", "0"])
    assert "sample=0 proves nothing" in capsys.readouterr().err


def test_names_in_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """`foresight[mine]` is no markup."""
    console().print(_table([MigratedCell("foresight[mine]", 96, "replay", 8, 4)]))
    assert "foresight[mine]" in capsys.readouterr().out
