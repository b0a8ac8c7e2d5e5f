"""Rows survive a kill at any byte, and nothing else is forgiven."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from kv_gym.bench.rows import EpisodeRow, RowFile, RowFileError, Rows, RunRow, read_rows
from kv_gym.files import ForeignFileError, InUseError


def make_run(command: str = "kv-gym bench") -> RunRow:
    return RunRow(
        started="2026-01-01T00:00:00+00:00", command=command, versions={"torch": "2"}, git=None, hardware={"cores": 2},
        threads=1, width=4, model={"name": "tiny", "revision": None}, settings={"evict_every": 8}, settings_sha256="s",
        plan={"seeds": 1}, left_out={64: ["aime/test/0/3"]},
    ).signed()  # fmt: skip


def make_row(problem: int = 0, **changes: object) -> EpisodeRow:
    values = {
        "run_id": make_run().run_id, "env_id": "E-v0", "mode": "generate", "split": "test", "agent": "a", "budget": 64,
        "agent_source": "m:A", "agent_sha256": "h", "uses_hindsight": False, "evicts": True, "evict_every": 8,
        "seed": 0, "problem": f"p{problem}", "family": "f", "correct": True, "correct_full": True,
        "reference_hash": "r", "problem_sha256": "q", "model": "tiny", "model_fingerprint": "w", "settings_sha256": "s",
    }  # fmt: skip
    return EpisodeRow.model_validate(values | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "rows.jsonl"
    with RowFile(path) as file:
        file.add(make_run())
        for problem in range(3):
            file.add(make_row(problem, loss=0.1 + problem))
    return path


def test_what_was_written_is_read(path: Path) -> None:
    rows = read_rows(path)
    assert list(rows.runs.values()) == [make_run()]
    assert list(rows.episodes.values()) == [make_row(problem, loss=0.1 + problem) for problem in range(3)]


def test_a_gzipped_file_is_read(path: Path) -> None:
    packed = path.with_name("rows.jsonl.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_rows(packed) == read_rows(path)


def test_a_file_cut_at_any_byte_holds_every_whole_line(path: Path) -> None:
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    ends = {len(b"".join(lines[:n])) - 1: n for n in range(1, 5)}  # only the newline is missing
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        kept = ends.get(cut, data[:cut].count(b"\n"))
        rows = read_rows(path)
        assert len(rows.runs) + len(rows.episodes) == kept
        if cut % 97 == 0 or cut in ends:
            with RowFile(path) as file:
                assert len(file.rows.episodes) == max(0, kept - 1)
                assert path.read_bytes() == data[:cut], "opening changes nothing"
                file.add(make_run("another"))
            assert path.read_bytes().splitlines(keepends=True)[:-1] == lines[:kept]


@pytest.mark.parametrize("zeros", [0, 4096])
@pytest.mark.parametrize("lost", [2, 100])
def test_a_torn_line_is_overwritten(path: Path, lost: int, zeros: int) -> None:
    """Also where a power cut left zero bytes."""
    data = path.read_bytes()
    path.write_bytes(data[:-lost] + b"\0" * zeros)
    with RowFile(path) as file:
        assert list(file.rows.episodes) == [make_row(0).key, make_row(1).key]
        file.add(make_row(2, loss=2.1))
    assert path.read_bytes() == data


def test_reading_while_a_line_is_written_changes_nothing(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])
    before = path.read_bytes()
    assert len(read_rows(path).episodes) == 2
    assert path.read_bytes() == before


def test_a_line_is_in_the_file_when_add_returns(path: Path) -> None:
    with RowFile(path) as file:
        file.add(make_row(7))
        assert list(read_rows(path).episodes)[-1] == make_row(7).key


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"kind": "epi', "Invalid JSON"),
        ('{"kind": "other"}', "'other' .* does not match"),
        (json.dumps(make_row(9).model_dump() | {"speed": 1}), "there is no column 'speed'"),
        (json.dumps(make_row(9).model_dump() | {"schema_version": 0}), "Input should be 1"),
        (json.dumps(make_row(9).model_dump() | {"correct": 7.5}), "correct: .*less than or equal to 1"),
        (json.dumps(make_row(9).model_dump() | {"n_tokens": -96}), "n_tokens: .*greater than or equal to 0"),
        (json.dumps(make_row(9).model_dump() | {"seconds": -1}), "seconds: .*greater than or equal to 0"),
        (json.dumps(make_row(9).model_dump() | {"loss": "much"}), "loss: "),
        (json.dumps(make_run().model_dump() | {"threads": 9}), "contents do not match its run_id"),
        (json.dumps(make_row(9).model_dump() | {"run_id": "gone"}), "no run line 'gone'"),
    ],
)
def test_a_damaged_line_is_named(path: Path, line: str, reason: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(RowFileError, match=f"rows.jsonl, line 3 is not a row of this version: .*{reason}"):
        read_rows(path)
    with pytest.raises(RowFileError, match="line 3"):
        RowFile(path)


@pytest.mark.parametrize(
    "other", [b'{"my": "precious notes"}', b"precious notes", b'{"my": "precious', b"[1, 2]", b'{"schema_version" = 1']
)
def test_what_nobody_here_wrote_is_left_as_it_is(path: Path, other: bytes) -> None:
    for data in (other, path.read_bytes() + other):
        path.write_bytes(data)
        with pytest.raises((RowFileError, ForeignFileError), match="rows.jsonl"):
            RowFile(path)
        assert path.read_bytes() == data


def test_lines_with_the_ends_of_another_system_are_no_torn_line(path: Path) -> None:
    data = path.read_bytes().replace(b"\n", b"\r")
    path.write_bytes(data)
    with pytest.raises(ForeignFileError, match="is no part of this file"):
        RowFile(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("link", ["none", "symbolic", "folder", "hard"])
def test_only_one_process_writes(path: Path, tmp_path: Path, link: str) -> None:
    """By whatever name the file is called."""
    other = {"none": path, "folder": tmp_path / "linked" / path.name}.get(link, tmp_path / "other" / "rows.jsonl")
    if link == "folder":
        other.parent.symlink_to(path.parent)
    elif link != "none":
        other.parent.mkdir()
        other.symlink_to(path) if link == "symbolic" else other.hardlink_to(path)
    with RowFile(path), pytest.raises(InUseError, match="another process is writing the rows"):
        RowFile(other)
    RowFile(other).close()


def test_of_one_episode_the_row_that_went_well_counts_then_the_last(path: Path) -> None:
    key, rows = make_row(9).key, Rows({make_run().run_id: make_run()}, {})
    for failed in ("one", "two", None, "three", None):
        rows.add(make_row(9, failed=failed, loss=None if failed else 1.0 + len(rows.episodes)))
        assert rows.episodes[key].failed == (failed if failed in ("one", "two") else None)
    with RowFile(path) as file:
        file.add(make_row(9, failed="first"))
        file.add(make_row(9))
    assert read_rows(path).episodes[key].failed is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowFileError, match=r"gone.jsonl does not exist. `kv-gym bench` writes"):
        read_rows(tmp_path / "gone.jsonl")


def test_nan_never_gets_into_a_file(path: Path) -> None:
    before = path.read_bytes()
    with RowFile(path) as file, pytest.raises(ValueError):
        file.add(make_row(8, loss=math.nan))
    assert b"NaN" not in path.read_bytes() and len(path.read_bytes()) == len(before)


def test_what_moves_a_result_is_in_the_key() -> None:
    changes = {
        "env_id": "F-v0", "mode": "replay", "agent": "b", "agent_source": "m:B", "agent_sha256": "i", "budget": 65,
        "problem": "p1", "problem_sha256": "z", "seed": 1, "model_fingerprint": "x", "settings_sha256": "t",
    }  # fmt: skip
    assert len({make_row(**{name: value}).key for name, value in changes.items()} | {make_row().key}) == 12
    assert make_row(correct=False, run_id="other", seconds=3.0).key == make_row().key


def test_a_run_id_is_the_hash_of_its_content() -> None:
    assert make_run().run_id == make_run().run_id != make_run("kv-gym bench --width 8").run_id
    assert RunRow.model_validate_json(make_run().model_dump_json()).signed() == make_run()


def test_a_line_of_a_newer_version_says_to_update(path: Path) -> None:
    line = json.dumps(make_row(9).model_dump() | {"schema_version": 2, "something": [1]})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RowFileError, match=r"line 5 was written by a newer kv-gym \(schema 2; .*Update kv") as error:
        read_rows(path)
    assert "Delete" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"no gzip", b"\x1f\x8b\x08half"])
def test_what_is_no_gzip_is_named(data: bytes, tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(data)
    if data:
        with pytest.raises(RowFileError, match="rows.jsonl.gz is no gzip file, or damaged"):
            read_rows(packed)
