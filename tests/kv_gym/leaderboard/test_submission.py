"""A small real submission passes every check, and each of many tampered copies is refused for its own reason."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load, load_file, save

from kv_gym.bench.progress import Silent
from kv_gym.bench.workers import WorkerError, Workers
from kv_gym.commands import main as cli
from kv_gym.errors import ConfigError, UndecidedError
from kv_gym.leaderboard import submit
from kv_gym.leaderboard.actions import actions_hash, pack_actions, unpack_actions
from kv_gym.leaderboard.files import FileRefused, parse_json, read_bounded, unpack
from kv_gym.leaderboard.protocol import Protocol, read_protocol
from kv_gym.leaderboard.submission import (
    ACTIONS,
    EPISODES,
    SUBMISSION,
    SUMS,
    SubmissionError,
    read_submission,
    schemas,
    summarise,
)
from kv_gym.leaderboard.submit import Entry, make_heading, make_submission, slug_of, write_sums
from kv_gym.leaderboard.text import text_complaint
from kv_gym.leaderboard.verify import check_submission, draw_sample
from kv_gym.llm.loading import EMBEDDED, load_llm

REPOSITORY = Path(__file__).parents[3]
HEADING = make_heading(title="Mine", slug="mine", authors=["me"])
MINE = '''
import torch

from kv_agents.base import Agent


class Mine(Agent):
    """Keep what is old."""

    name = "mine"

    def score(self, slots):
        return -slots.positions.float()
'''

DEEP = "[" * 400 + "1" + "]" * 400

Change = Callable[[Path], None]


@pytest.fixture(scope="session")
def submission(protocol: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an agent in a file of one's own; `test_alone` loads agents from their submissions."""
    folder = tmp_path_factory.mktemp("submissions")
    (folder / "mine.py").write_text(MINE)
    entry = Entry(f"{folder / 'mine.py'}:Mine", {}, HEADING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "check_alone", lambda *_: None)
        return make_submission(entry, read_protocol(protocol), folder, Silent())


def copy(submission: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(submission, tmp_path / submission.name))


def codes(folder: Path, protocol: Path, level: Any = "replay") -> list[str]:
    verdict = check_submission(folder, read_protocol(protocol), level, Silent(), sample=2, seed=0)
    return [finding.code for finding in verdict.findings]


def test_a_submission_passes_every_level(submission: Path, protocol: Path) -> None:
    verdict = check_submission(submission, read_protocol(protocol), "rerun", Silent(), sample=3, seed=1)
    assert verdict.ok and verdict.done == ["schema", "arithmetic", "replay", "rerun"], verdict.findings
    assert "1 of 1 episodes gave the same text" in verdict.notes[-1]
    found = read_submission(submission)
    assert [row.problem for row in found.episodes] == [f"aime/test/0/{i}" for i in range(4)]
    assert found.submission.agent.file == "agent/mine.py" and (submission / "agent" / "mine.py").read_text() == MINE
    cell = found.submission.cells[0]
    assert cell.accuracy == sum(row.correct for row in found.episodes) / 4
    assert cell.kv_slots_peak == 176 and cell.kv_slots_mean == 160 + 8.5
    assert not list(submission.parent.glob(".*")), "nothing unfinished is left"


# --- tampering ---------------------------------------------------------------------------------------------------


def on_submission(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / SUBMISSION
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def on_agent(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / SUBMISSION
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"agent": found["agent"] | changes}))

    return change


def on_cell(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / SUBMISSION
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"cells": [found["cells"][0] | changes]}))

    return change


def on_rows(edit: Callable[[list[dict[str, Any]]], Any], again: bool = True) -> Change:
    """Change rows, and keep the means in step, as somebody would who cheats with care."""

    def change(folder: Path) -> None:
        path = folder / EPISODES
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        edit(rows)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        if again:
            cells = [cell.model_dump() for cell in summarise(read_submission(folder).episodes)]
            on_submission(cells=cells)(folder)

    return change


def on_row(**changes: Any) -> Change:
    return on_rows(lambda rows: rows[0].update(changes))


def on_actions(edit: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change the first episode's actions, and its hash with them."""

    def change(folder: Path) -> None:
        path = folder / ACTIONS
        found = load(lzma.decompress(path.read_bytes()))
        key = "KVEvict-AIME-v0/160/aime/test/0/0/0"
        found[key] = edit(found[key].clone())
        path.write_bytes(lzma.compress(save(found)))
        evicted = found[key].long()
        if bool((evicted.diff(dim=-1) > 0).all()) and int(evicted.max()) < 176:
            on_row(actions_sha256=actions_hash(evicted, 176))(folder)

    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def edit_text(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        found = (folder / name).read_text()
        assert old in found
        (folder / name).write_text(found.replace(old, new, 1))

    return change


def link(folder: Path) -> None:
    (folder / "system.json").rename(folder.parent / "system.json")
    (folder / "system.json").symlink_to(folder.parent / "system.json")


def many_rows(folder: Path) -> None:
    line = gzip.decompress((folder / EPISODES).read_bytes()).splitlines(keepends=True)[0]
    (folder / EPISODES).write_bytes(gzip.compress(line * 20_001))


def long_rows(folder: Path) -> None:
    (folder / EPISODES).write_bytes(gzip.compress(b" " * (2**25 + 1)))


def after_sums(change: Change) -> Change:
    change.after_sums = True  # type: ignore[attr-defined]
    return change


def wrong_range(evicted: torch.Tensor) -> torch.Tensor:
    evicted[0, 0, 0, -1] = 200
    return evicted


def twice(evicted: torch.Tensor) -> torch.Tensor:
    evicted[0, 0, 0, 1] = evicted[0, 0, 0, 0]
    return evicted


def newest(evicted: torch.Tensor) -> torch.Tensor:
    evicted[0, 0, 0, -1] = 175
    return evicted


def others(evicted: torch.Tensor) -> torch.Tensor:
    """Every head drops other slots in the first steps."""
    evicted[:4] = torch.arange(0, 32, 2, dtype=evicted.dtype)
    return evicted


TAMPERED: dict[str, tuple[str, Change]] = {
    "a key more": ("schema.unknown-key", on_submission(score=100)),
    "a key less": ("schema.missing-key", edit_text(SUBMISSION, '"title": "Mine",', "")),
    "another format": ("schema.format", on_submission(format=2)),
    "a value of the wrong type": ("schema.value", on_submission(threads="many")),
    "a link that runs": ("schema.value", on_submission(link="javascript:alert(1)")),
    "an author without end": ("schema.value", on_submission(authors=["x" * 201])),
    "a slug that climbs": ("schema.value", on_submission(slug="../../x")),
    "a key twice": (
        "schema.duplicate-key",
        edit_text(SUBMISSION, '"title": "Mine",', '"title": "Mine", "title": "M",'),
    ),
    "not a number": ("schema.non-finite", edit_text(SUBMISSION, '"accuracy":', '"accuracy": NaN, "x":')),
    "no JSON": ("schema.json", text(SUBMISSION, "{")),
    "a pickle": ("schema.file-type", text("agent/weights.pkl", "x")),
    "a stray file": ("schema.unknown-file", text("run.sh", "x")),
    "a missing file": ("schema.missing-file", lambda folder: (folder / "system.json").unlink()),
    "a link": ("schema.symlink", link),
    "a huge file": ("schema.file-size", text("system.json", " " * (2**20 + 1))),
    "rows that are not packed": ("schema.compression", text(EPISODES, "{}")),
    "a file that was changed later": ("schema.sums", after_sums(edit_text("system.json", "platform", "platfrom"))),
    "a file that is not listed": ("schema.sums-missing", after_sums(text("agent/more.py", "x = 1"))),
    "a sum outside": ("schema.path", after_sums(text(SUMS, f"{'0' * 64}  ../../etc/passwd\n"))),
    "no sums": ("schema.sums-form", after_sums(text(SUMS, "hello\n"))),
    "an agent without its file": ("schema.agent-file", on_agent(file="agent/other.py")),
    "actions of another kind": (
        "schema.actions",
        lambda folder: (folder / ACTIONS).write_bytes(lzma.compress(b"x")) and None,
    ),
    "actions that are floats": ("schema.actions-type", on_actions(lambda evicted: evicted.float())),
    "another folder name": ("schema.folder-name", on_submission(slug="yours")),
    "a day that is none": ("schema.date", on_submission(date="2026-02-30")),
    "digits of another script": ("schema.text", on_submission(date="\u0662026-11-27")),
    "a day to come": ("schema.date", on_submission(date="2999-01-01")),
    "a title that turns around": ("schema.text", on_submission(title="Mine \u202eenim")),
    "a title of two lines": ("schema.text", on_submission(title="Mine\nrank 1")),
    "a title in fullwidth digits": ("schema.text", on_submission(title="Top \uff11")),
    "an author who moves the cursor": ("schema.text", on_submission(authors=["me", "\x1b[2J"])),
    "half of a character": ("schema.text", on_agent(name="\ud800")),
    "an invisible key": ("schema.text", on_submission(versions={"torch\u200b": "2"})),
    "a machine with a bell": ("schema.text", text("system.json", '{"hardware": {"cpu": "\\u0007"}}')),
    "a failure that clears the screen": (
        "schema.text",
        on_rows(lambda rows: rows[0].update(failed="\x9b2J"), again=False),
    ),
    "an option that turns around": ("schema.text", on_agent(options={"a": [{"b": "\u2067"}]})),
    "options without end": ("schema.value", on_agent(options={"a": list(range(4000))})),
    "options without ground": (
        "schema.value",
        edit_text(SUBMISSION, '"options": {}', '"options": {"a": ' + DEEP + "}"),
    ),
    "more episodes than anybody plays": ("schema.episodes", many_rows),
    "episodes that are blank": ("schema.inflated-size", long_rows),
    "a file that climbs": ("schema.value", on_agent(file="agent/../mine.py")),
    "a hidden file": ("schema.file-type", text("agent/.mine.py", "x = 1")),
    "a trial that played it all": ("arithmetic.trial", on_submission(trial=True)),
    "a trial that says it is none": ("arithmetic.trial", on_submission(reduced={"problems": 4, "budgets": []})),
    "a trial of something else": (
        "arithmetic.protocol",
        on_submission(trial=True, reduced={"problems": 2, "budgets": []}),
    ),
    "another protocol": ("arithmetic.protocol", on_submission(protocol_sha256="0" * 64)),
    "a better mean": ("arithmetic.aggregate", on_cell(accuracy=0.99)),
    "a cell less": ("arithmetic.cell-set", on_submission(cells=[])),
    "an episode twice": ("arithmetic.duplicate-episode", on_rows(lambda rows: rows.append(rows[0]))),
    "a hard problem left out": ("arithmetic.problem-set", on_rows(lambda rows: rows.pop())),
    "another problem": ("arithmetic.problem-set", on_rows(lambda rows: rows[0].update(problem="aime/test/0/99"))),
    "another seed": ("arithmetic.problem-set", on_row(seed=7)),
    "another model": ("arithmetic.model", on_submission(models={"tiny": "0" * 64})),
    "another full cache": ("arithmetic.references", on_submission(references_sha256="0" * 64)),
    "a weaker full cache": ("arithmetic.full-cache", on_row(correct_full=0.0)),
    "another family": ("arithmetic.family", on_row(family="easy")),
    "half a point": ("arithmetic.score", on_row(correct=0.5)),
    "too many slots": ("arithmetic.budget", on_row(kv_slots_peak=500)),
    "too few evictions": ("arithmetic.steps", on_row(steps=1)),
    "too many tokens": ("arithmetic.tokens", on_row(tokens=5000)),
    "a failure that scores": ("arithmetic.failed", on_row(failed="x", correct=1.0)),
    "actions left out": (
        "arithmetic.actions-set",
        lambda folder: (folder / ACTIONS).write_bytes(pack_actions({})) and None,
    ),
    "actions of another shape": ("arithmetic.actions-shape", on_actions(lambda evicted: evicted[:-1])),
    "a slot that is not there": ("arithmetic.actions-range", on_actions(wrong_range)),
    "a slot twice": ("arithmetic.actions-order", on_actions(twice)),
    "a protected slot": ("arithmetic.protected", on_actions(newest)),
    "other actions than the row's": ("arithmetic.actions-hash", on_row(actions_sha256="0" * 64)),
    "other actions than were played": ("replay.tokens", on_actions(others)),
}


def test_there_are_enough_ways_to_cheat() -> None:
    assert len(TAMPERED) >= 25 and len({code for code, _ in TAMPERED.values()}) >= 25


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_refused_for_its_own_reason(name: str, submission: Path, protocol: Path, tmp_path: Path) -> None:
    code, change = TAMPERED[name]
    folder = copy(submission, tmp_path)
    change(folder)
    if not hasattr(change, "after_sums"):
        (folder / SUMS).unlink(missing_ok=True)
        write_sums(folder)
    found = codes(folder, protocol)
    assert found and found[0] == code, found


def test_a_score_that_was_not_earned_is_found_by_playing_again(
    submission: Path, protocol: Path, tmp_path: Path
) -> None:
    folder = copy(submission, tmp_path)
    on_rows(lambda rows: [row.update(correct=1.0 - row["correct"]) for row in rows])(folder)
    write_sums(folder)
    assert set(codes(folder, protocol, "arithmetic")) == set()
    assert set(codes(folder, protocol)) == {"replay.correct"}


# --- parts -------------------------------------------------------------------------------------------------------


def test_texts_are_what_readers_see() -> None:
    for fine in (
        "R-KV, \u03bb = 0.1 \u2014 \u4e2d\u6587 caf\u00e9 \u2764\ufe0f",
        {"a": [None, 1, True, {"b": "c"}]},
        "",
    ):
        assert text_complaint(fine) == ""
    assert text_complaint({"a": [{"b": "x\u202ey"}]}).startswith("a.0.b holds U+202E (RIGHT-TO-LEFT OVERRIDE)")
    assert text_complaint({"a": {"\u0661": 1}}).startswith("a key of a holds U+0661 (ARABIC-INDIC DIGIT ONE)")
    for refused in "\0\t\n\r\x7f\x85\xa0\xad\u061c\u200b\u200e\u2028\u2029\u202a\u2066\ufeff\ud800\uff10":
        assert text_complaint(["x" + refused])


def test_a_place_is_short_whatever_the_key() -> None:
    """Or a key as long as the file, over many values, takes memory without end."""
    complaint = text_complaint({"k" * 5000: ["x", "\0"]})
    assert complaint.startswith("k" * 100 + " holds U+0000") and len(complaint) < 300


def test_packed_files_are_bounded() -> None:
    bomb = gzip.compress(b"\0" * 5000)
    assert unpack(bomb, "x.gz", 5000) == b"\0" * 5000
    with pytest.raises(FileRefused, match="inflated-size"):
        unpack(bomb, "x.gz", 4999)
    with pytest.raises(FileRefused, match="inflated-size"):
        unpack(lzma.compress(b"\0" * 5000), "x.xz", 4999)


@pytest.mark.parametrize("data", [b'{"a": 1e999}', b'{"a": -Infinity}', b"[" * 100_000])
def test_json_of_strangers_is_plain(data: bytes) -> None:
    with pytest.raises(FileRefused):
        parse_json(data)


def test_actions_come_back_as_they_were() -> None:
    small = {"a": torch.tensor([[[[1, 255]]]]), "b": torch.tensor([[[[3, 300]]]]), "c": torch.zeros(0, 1, 1, 2)}
    found = unpack_actions(pack_actions(small), "x.xz")
    assert all(torch.equal(found[key], value.long()) for key, value in small.items())


def test_the_sample_takes_from_every_cell(submission: Path) -> None:
    rows = read_submission(submission).episodes
    other = [row.model_copy(update={"budget": 96}) for row in rows]
    drawn = draw_sample([*rows, *other], 4, seed=3)
    assert sorted(row.budget for row in drawn) == [96, 96, 160, 160]
    assert draw_sample([*rows, *other], 4, seed=3) == drawn


def test_a_stopped_submission_goes_on(protocol: Path, submission: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    real, played = submit.play_cell, []

    def two_only(*arguments: Any) -> Any:
        for number, found in enumerate(real(*arguments)):
            if number == 2 and not played:
                played.append(number)
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(submit, "play_cell", two_only)
    (tmp_path / "mine.py").write_text(MINE)
    entry = Entry(f"{tmp_path / 'mine.py'}:Mine", {}, HEADING)
    with pytest.raises(KeyboardInterrupt):
        make_submission(entry, read_protocol(protocol), tmp_path, Silent())
    with open(tmp_path / ".mine.partial.jsonl", "a") as file:
        file.write('{"row": {"torn')
    folder = make_submission(entry, read_protocol(protocol), tmp_path, Silent())
    one, other = (read_submission(path).episodes for path in (folder, submission))
    assert [row.tokens_sha256 for row in one] == [row.tokens_sha256 for row in other]
    with pytest.raises(ConfigError, match="exists"):
        make_submission(entry, read_protocol(protocol), tmp_path, Silent())


def test_workers_make_the_submission_of_one_process(
    submission: Path, protocol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Texts and evictions, byte for byte; the agent is from a file."""
    pytest.importorskip("ray", reason="workers need Ray")
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    (tmp_path / "mine.py").write_text(MINE)
    entry, rules = Entry(f"{tmp_path / 'mine.py'}:Mine", {}, HEADING), read_protocol(protocol)
    folder = make_submission(entry, rules, tmp_path, Silent(), Workers(2, threads=torch.get_num_threads()))
    one, other = (read_submission(path) for path in (folder, submission))
    assert [(row.key, row.tokens_sha256, row.actions_sha256, row.correct) for row in one.episodes] == [
        (row.key, row.tokens_sha256, row.actions_sha256, row.correct) for row in other.episodes
    ]
    assert (folder / ACTIONS).read_bytes() == (submission / ACTIONS).read_bytes()
    assert check_submission(folder, rules, "replay", Silent(), sample=2, seed=0).ok


def test_trouble_of_workers_is_no_failure_of_the_agent_and_what_is_missing_is_played_later(
    submission: Path, protocol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The agent imports a module beside its file."""
    pytest.importorskip("ray", reason="workers need Ray")
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    monkeypatch.syspath_prepend(str(tmp_path))  # as the folder of its file is while an agent is loaded
    (tmp_path / "sign_of_mine.py").write_text("SIGN = -1\n")
    mine = MINE.replace("import torch", "import sign_of_mine").replace(
        "return -slots", "return sign_of_mine.SIGN * slots"
    )
    (tmp_path / "mine.py").write_text(mine)
    entry, rules = Entry(f"{tmp_path / 'mine.py'}:Mine", {}, HEADING), read_protocol(protocol)
    with pytest.raises(WorkerError, match="WorkerTooSlow.* The same command plays what is missing"):
        make_submission(entry, rules, tmp_path, Silent(), Workers(1, chunk_seconds=0.01))
    assert not list(tmp_path.glob("2*"))
    folder = make_submission(entry, rules, tmp_path, Silent(), Workers(1))
    one, other = (read_submission(path).episodes for path in (folder, submission))
    assert [(row.key, row.failed, row.tokens_sha256) for row in one] == [
        (row.key, None, row.tokens_sha256) for row in other
    ]


def test_a_protocol_names_an_environment_at_a_budget_once(tmp_path: Path) -> None:
    cell = "{env_id: KVEvict-AIME-v0, model: tiny, budgets: [160], problems: 4}"
    (tmp_path / "twice.yaml").write_text(f"id: twice\nsplit: test\nseeds: 1\nwidth: 4\ncells: [{cell}, {cell}]\n")
    with pytest.raises(ConfigError, match="KVEvict-AIME-v0 at budget 160 twice"):
        read_protocol(tmp_path / "twice.yaml")


def test_an_agent_that_changes_the_model_in_a_worker_cannot_be_submitted(
    protocol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip("ray", reason="workers need Ray")
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    score = "next(iter(slots._llm.model.parameters())).mul_(2) * 0\n        return slots.positions.float()"
    (tmp_path / "mine.py").write_text(MINE.replace("return -slots.positions.float()", score))
    assert "mul_" in (tmp_path / "mine.py").read_text()
    entry = Entry(f"{tmp_path / 'mine.py'}:Mine", {}, HEADING)
    with pytest.raises(SubmissionError, match="Such agents cannot be submitted"):
        make_submission(entry, read_protocol(protocol), tmp_path, Silent(), Workers(1))


def test_a_submission_that_was_stopped_at_its_very_end_is_the_same_one_the_day_after(
    protocol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """A kill between the rename of the folder and the removal of the unfinished file; midnight passes."""

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=1)

    def stopped(self: Any) -> None:
        raise KeyboardInterrupt

    entry = Entry("full", {}, HEADING)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(submit.Partial, "remove", stopped)
        make_submission(entry, read_protocol(protocol), tmp_path, Silent())
    (finished,) = tmp_path.glob("2*")
    monkeypatch.setattr(submit, "datetime", Tomorrow)
    assert make_submission(entry, read_protocol(protocol), tmp_path, Silent()) == finished
    assert list(tmp_path.iterdir()) == [finished]


def test_an_unfinished_submission_without_episodes_is_begun_anew(
    protocol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Of an agent that was refused before it played: its mark is another one when it is mended."""
    (tmp_path / ".mine.partial.jsonl").write_text('{"mark": "another", "date": "2026-01-01"}\n')
    folder = make_submission(Entry("full", {}, HEADING), read_protocol(protocol), tmp_path, Silent())
    assert not folder.name.startswith("2026-01-01") and list(tmp_path.iterdir()) == [folder]


def test_a_failed_episode_is_played_again_when_a_stopped_submission_goes_on(
    protocol: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Memory was short, say: what failed for once does not count."""
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    (tmp_path / "mine.py").write_text(MINE)
    entry = Entry(f"{tmp_path / 'mine.py'}:Mine", {}, HEADING)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("kv_gym.bench.scoring.check_kind", Mock(side_effect=MemoryError("short")))
        patch.setattr(submit, "write_folder", Mock(side_effect=KeyboardInterrupt))
        make_submission(entry, read_protocol(protocol), tmp_path, Silent())
    assert (tmp_path / ".mine.partial.jsonl").read_text().count("MemoryError: short") == 4
    folder = make_submission(entry, read_protocol(protocol), tmp_path, Silent())
    assert all(row.failed is None for row in read_submission(folder).episodes)


def test_an_agent_that_changes_the_model_is_not_submitted(protocol: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    touches = "slots._llm.model.model.norm.weight.data.mul_(0.5); return -slots.positions.float()"
    (tmp_path / "bad.py").write_text(MINE.replace("return -slots.positions.float()", touches))
    with pytest.raises(SubmissionError, match=r"agent 'mine': it changed the model's model.norm.weight.*Such agents"):
        make_submission(Entry(f"{tmp_path / 'bad.py'}:Mine", {}, HEADING), read_protocol(protocol), tmp_path, Silent())
    assert load_llm("tiny").model.model.norm.weight.equal(
        load_file(EMBEDDED["tiny"] / "model.safetensors")["model.norm.weight"]
    )


@pytest.mark.parametrize(
    ("act", "code", "said"),
    [
        ('raise KeyError("rules")', "rerun.failed", "1 of 1 episodes fail here and were played: KeyError: 'rules'"),
        ("slots._llm.model.train()", "rerun.touched", "the model's training"),
    ],
)
def test_what_an_agent_does_only_when_it_is_run_again_is_found(
    submission: Path, protocol: Path, tmp_path: Path, act: str, code: str, said: str
) -> None:
    folder = copy(submission, tmp_path)
    (folder / "agent" / "mine.py").write_text(MINE.replace("return -slots", f"{act}\n        return -slots"))
    write_sums(folder)
    findings = check_submission(folder, read_protocol(protocol), "rerun", Silent(), sample=2, seed=0).findings
    assert any(finding.code == code and said in finding.detail for finding in findings), findings


@pytest.mark.parametrize("first", ['{"mark": 3}', '{"my": "notes"}', "[1]", "7", "torn"])
def test_an_unfinished_submission_of_something_else_is_left_alone(protocol: Path, tmp_path: Path, first: str) -> None:
    unfinished = tmp_path / ".mine.partial.jsonl"
    unfinished.write_text(first + "\n")
    with pytest.raises(ConfigError, match="another agent, protocol or model"):
        make_submission(Entry("full", {}, HEADING), read_protocol(protocol), tmp_path, Silent())
    assert unfinished.read_text() == first + "\n"


def test_the_full_cache_and_failures_are_submissions_too(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    bad = 'exec(\'raise ValueError("two\\\\nlines \\\\u202e" + "x" * 600)\')'
    (tmp_path / "bad.py").write_text(MINE.replace("return -slots.positions.float()", bad))
    for agent, slug in (("full", "full"), (f"{tmp_path / 'bad.py'}:Mine", "bad")):
        folder = make_submission(
            Entry(agent, {}, HEADING.model_copy(update={"slug": slug})), read_protocol(protocol), tmp_path, Silent()
        )
        assert codes(folder, protocol) == []
        found = read_submission(folder).submission.cells[0]
        assert found.accuracy == (1.0 if slug == "full" else 0.0)
    failed = read_submission(folder).episodes[0].failed
    assert failed is not None and failed.startswith("ValueError: two lines  xxx")


def test_an_answer_without_a_verdict_is_a_failure_of_its_episode(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecided(text: str, gold: str, graded: str) -> float:
        raise UndecidedError("comparing took over 2 s")

    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    (tmp_path / "mine.py").write_text(MINE)
    with monkeypatch.context() as patch:
        patch.setattr("kv_gym.engine.episodes.grade", undecided)
        entry = Entry(f"{tmp_path / 'mine.py'}:Mine", {}, HEADING)
        folder = make_submission(entry, read_protocol(protocol), tmp_path, Silent())
    assert codes(folder, protocol) == []
    rows = read_submission(folder).episodes
    assert all(row.failed == f"UndecidedError: the answer to {row.problem}: comparing took over 2 s" for row in rows)
    assert {(row.correct, row.steps) for row in rows} == {(0.0, 0)}


def test_a_score_that_cannot_be_graded_here_is_told(
    submission: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecided(text: str, gold: str, graded: str) -> float:
        raise UndecidedError("comparing took over 2 s")

    monkeypatch.setattr("kv_gym.engine.episodes.grade", undecided)
    verdict = check_submission(submission, read_protocol(protocol), "replay", Silent(), sample=2, seed=0)
    assert {finding.code for finding in verdict.findings} == {"replay.correct"}
    assert all("its actions lead to UndecidedError" in finding.detail for finding in verdict.findings)


def test_the_protocol_says_what_is_wrong(tmp_path: Path) -> None:
    protocol = read_protocol()
    assert isinstance(protocol, Protocol) and protocol.reduced(3, [48]).cells[0].budgets == [48]
    assert protocol.reduced(3, []).sha256 != protocol.sha256
    with pytest.raises(ConfigError, match="no such file"):
        read_protocol(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("id: x")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_protocol(tmp_path / "bad.yaml")


def test_slugs_are_short_names() -> None:
    assert slug_of("R-KV, λ = 0.1!") == "r-kv-0-1" and slug_of("λ") == "agent" and len(slug_of("x" * 99)) == 40


def test_schemas_are_current() -> None:
    for name, schema in schemas().items():
        stored = json.loads((REPOSITORY / "leaderboards" / "schema" / "v1" / name).read_text())
        assert stored == json.loads(json.dumps(schema)), "run: kv-gym submit schemas"


def test_commands_say_how_it_went(
    submission: Path, protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["submit", *arguments, "--protocol", str(protocol)])
        found = capsys.readouterr()
        return int(end.value.code or 0), found.out + found.err

    code, out = run("check", str(submission), "--sample", "1")
    assert code == 0 and "nothing speaks against it" in out
    code, out = run("check", str(tmp_path / "none"), "--json")
    assert code == 1 and '"schema.missing-folder"' in out
    code, out = run("check", str(submission), "--rerun", "--sample", "1")
    assert code == 0 and "WARNING" in out
    assert run("new", "nobody", "--author", "me")[0] == 2
    code, out = run("new", "random", "--author", "me\u202e", "--out", str(tmp_path))
    assert code == 2 and "authors.0 holds U+202E (RIGHT-TO-LEFT OVERRIDE)" in out and "Change --author" in out


def test_a_trial_is_checked_at_every_level_and_no_entry(
    protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            cli.main(["submit", *arguments, "--protocol", str(protocol)])
        return "".join(capsys.readouterr())

    out = run("new", "random", "--author", "me", "--problems", "3", "--budget", "96", "--out", str(tmp_path))
    assert "trial, no leaderboard entry: " in out
    [folder] = tmp_path.glob("*_random")
    out = run("check", str(folder), "--rerun", "--sample", "1")
    assert "trial: played 3 problems an environment at budgets 96, no leaderboard entry" in out
    assert "rerun: 1 of 1 episodes gave the same text" in out and "nothing speaks against it, a trial" in out
    verdict = check_submission(folder, read_protocol(protocol), "rerun", Silent(), sample=1, seed=0)
    assert verdict.ok and verdict.trial and verdict.done == ["schema", "arithmetic", "replay", "rerun"]
    on_rows(lambda rows: [row.update(correct=1.0 - row["correct"]) for row in rows])(folder)
    write_sums(folder)
    assert set(codes(folder, protocol)) == {"replay.correct"}, "a trial is held to the same rules"


def test_another_protocol_is_told_by_what_differs(submission: Path, protocol: Path, tmp_path: Path) -> None:
    rules = read_protocol(protocol)

    def said(**changed: Any) -> str:
        other = rules.model_copy(update=changed)
        [finding] = check_submission(submission, other, "arithmetic", Silent()).findings
        assert finding.code == "arithmetic.protocol" and "--protocol FILE" in finding.detail
        return finding.detail

    assert "it played protocol small; this one is large" in said(id="large")
    assert "the same" not in said(
        seeds=2
    ) and "it played 4 episodes of KVEvict-AIME-v0 at budget 160, where this" in said(seeds=2)
    cell = rules.cells[0]
    detail = said(cells=[cell.model_copy(update={"budgets": [96]})])
    assert "KVEvict-AIME-v0 at budget 160, which this protocol has not" in detail
    assert "nothing of KVEvict-AIME-v0 at budget 96" in detail
    assert "model, split, seeds or number of problems are others (sha256 " in said(split="train")
    assert "small; this one is small" not in said(width=8)


def test_many_episodes_are_read_in_time_or_refused(submission: Path, protocol: Path, tmp_path: Path) -> None:
    """400 MB of valid rows took more than two minutes."""
    folder = copy(submission, tmp_path)
    line = gzip.decompress((folder / EPISODES).read_bytes()).splitlines(keepends=True)[0]
    (folder / EPISODES).write_bytes(gzip.compress(line * (400_000_000 // len(line)), 1))
    write_sums(folder)
    start = time.monotonic()
    assert codes(folder, protocol, "schema") == ["schema.inflated-size"] and time.monotonic() - start < 5


def test_a_file_that_is_read_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="missing"):
        read_bounded(tmp_path / "x")
