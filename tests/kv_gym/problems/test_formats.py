"""Files of rows: every format gives the same rows, and what is damaged or too large is refused with its place."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kv_gym.errors import ProblemFileError
from kv_gym.problems import formats, problem_source
from kv_gym.problems.formats import FORMATS, is_file_name, numbered_rows, stem

ROWS = [{"problem": "1 + 1?", "answer": "2"}, {"problem": "zwei, \u2028\n„drei“?", "answer": "5"}]


def write(path: Path, rows: Any = ROWS) -> Path:
    """Write rows in the format that the name of a file says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), path)
        return path
    if kind == "csv":
        draft = path.with_name("draft")
        with draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
        data = draft.read_bytes()
    else:
        text = json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"my.set{suffix}")
    assert [row for _, row in numbered_rows(path)] == ROWS
    assert is_file_name(path.name) and stem(path) == "my.set"
    assert problem_source(str(path)).problem("test", 0, 1).id == "my.set/1"


@pytest.mark.parametrize("name", ["A.JSONL", "a.Json.GZ"])
def test_capitals_of_an_ending_do_not_matter(name: str, tmp_path: Path) -> None:
    assert is_file_name(name) and stem(tmp_path / name).lower() == "a"


def test_numbers_are_those_of_lines(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('\n{"a": 1}\n\n{"a": 2}')
    assert [number for number, _ in numbered_rows(lines)] == [2, 4]
    table = tmp_path / "a.csv"
    table.write_text('a,b\n"x\ny",1\nz,2\n')
    assert list(numbered_rows(table)) == [(2, {"a": "x\ny", "b": "1"}), (4, {"a": "z", "b": "2"})]


def test_the_index_that_pandas_writes_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",problem,answer\n0,q,2\n")
    assert list(numbered_rows(path)) == [(2, {"problem": "q", "answer": "2"})]


def test_json_may_be_an_object_with_one_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}))
    assert [row for _, row in numbered_rows(path)] == ROWS


def test_windows_marks_of_utf8_are_read_over(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", '{"a": "1"}'), ("a.json", '[{"a": "1"}]'), ("a.csv", "a\n1\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [row for _, row in numbered_rows(tmp_path / name)] == [{"a": "1"}]


GOOD = b'{"problem": "p", "answer": "1"}\n'
DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "torn": ("a.jsonl", GOOD + GOOD[:-9], r"a\.jsonl, line 2 is not JSON.*it was cut off"),
    **{
        f"torn at {end!r}": (name, start + end, "is not JSON.*it was cut off")
        for name, start in (("a.jsonl", GOOD + b'{"problem": '), ("a.json", b'[{"problem": '))
        for end in (b"", b'"a', b'"a"', b'"\\', b'"\\u00', b'"\xc3', b"12", b"-", b"tr", b"[", b"[1]", b'"a", "b')
    },
    "a list that is not closed": ("a.json", b"[" + GOOD[:-1], "is not JSON.*it was cut off"),
    **{
        f"not torn: {text!r}": (name, text, r"is not JSON: [^.]*\.$")
        for name in ("a.jsonl", "a.json")
        for text in (b"what?", b'{"a": nothing, "b": "1', b"{'a': 1", b'{"a": "\\q"}', b'{"a": "\\u00"}', b'{"a": "x\n')
    },
    "text": ("a.jsonl", GOOD + b"what?\n" + GOOD, r"a\.jsonl, line 2 is not JSON: [^.]*\.$"),
    "no UTF-8": ("a.jsonl", b'{"problem": "\xff"}\n', "line 1 is not JSON: 'utf-8' codec"),
    "a list": ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
    "a key twice": ("a.jsonl", b'{"answer": "1", "answer": "2"}\n', "line 1 .*the key 'answer' twice"),
    "deep": ("a.json", b"[" * 100_000, "is not JSON"),
    "json of text": ("a.json", b'"x"', "must be a list of problems"),
    "json without a list": ("a.json", b'{"a": 1}', "it has none"),
    "json of two lists": ("a.json", b'{"train": [], "test": []}', "it has the lists 'train', 'test'"),
    "json of numbers": ("a.json", b"[{}, 3]", "item 2 is not a JSON object"),
    "no gzip": ("a.jsonl.gz", GOOD, "no whole gzip file"),
    "half a gzip": ("a.jsonl.gz", gzip.compress(GOOD * 99)[:-9], "no whole gzip file"),
    "a damaged gzip": ("a.jsonl.gz", gzip.compress(GOOD)[:12] + b"\xff" * 9, "no whole gzip file"),
    "csv of another width": ("a.csv", b"problem,answer\nx,y,z\n", "line 2 has 3 cells and line 1 names 2"),
    "csv of one name twice": ("a.csv", b"answer,answer\n1,2\n", "line 1 must name each column"),
    "csv without names": ("a.csv", b"problem,\nx,1\n", "line 1 must name each column"),
    "csv torn": ("a.csv", b'problem,answer\n1,2\n"x', r"from line 3 on, is not CSV in UTF-8: unexpected end"),
    "csv no UTF-8": ("a.csv", b"problem,answer\n\xff,1\n", "line 2 is not CSV in UTF-8"),
    "csv no UTF-8 far in": ("a.csv", b"a,b\n" + b"x,1\n" * 9000 + b"\xff,1\n" + b"x,1\n" * 99, "line 9002 is not CSV"),
    "csv that ends in a character": ("a.csv", b"a,b\nx,\xc3", "line 2 is not CSV in UTF-8"),
    "csv with semicolons": ("a.csv", b"problem;answer\nq;2,5\n", "line 1 has ';' between its names.*with commas"),
    "csv with tabs": ("a.csv", b"problem\tanswer\nq\t2\n", r"line 1 has '\\t' between its names"),
    "an empty csv": ("a.csv", b"", "line 1 must name each column"),
    "gzip in jsonl": ("a.jsonl", gzip.compress(GOOD), "is packed with gzip. Name it .gz"),
    "gzip in csv": ("a.csv", gzip.compress(GOOD), "is packed with gzip"),
    "gzip in gzip": ("a.json.gz", gzip.compress(gzip.compress(GOOD)), "unpacked, is packed with gzip"),
    "zip": ("a.jsonl", b"PK\x03\x04xyz", "is a zip archive"),
    "UTF-16": ("a.jsonl", GOOD.decode().encode("utf-16"), "is in UTF-16. Write it again in UTF-8"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_damaged_is_refused(kind: str, tmp_path: Path) -> None:
    name, data, message = DAMAGED[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ProblemFileError, match=message):
        list(numbered_rows(tmp_path / name))


def test_no_file_and_no_format(tmp_path: Path) -> None:
    with pytest.raises(ProblemFileError, match=r"no such file\. Give one of \.jsonl, \.json, \.csv, \.parquet"):
        problem_source(str(tmp_path / "gone.tsv"))
    (tmp_path / "a.tsv").write_text("a\n")
    with pytest.raises(ProblemFileError, match="no format of problems ends so"):
        problem_source(str(tmp_path / "a.tsv"))
    with pytest.raises(ProblemFileError, match="no such file"):
        problem_source("somebody/set")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"])
def test_sizes_are_bounded(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / f"a{suffix}", [{"problem": "p" * 500, "answer": str(i)} for i in range(40)])
    with monkeypatch.context() as patch:
        patch.setattr(formats, "MOST_ROWS", 39)
        with pytest.raises(ProblemFileError, match="more than 39 rows. Give a part"):
            list(numbered_rows(path))
    monkeypatch.setattr(formats, "MOST_BYTES_WHOLE", 2000)
    monkeypatch.setattr(formats, "MOST_BYTES", 2000)
    with pytest.raises(ProblemFileError, match="more than 0 MiB. Give a part"):
        list(numbered_rows(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_bounded(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / f"a{suffix}", [{"problem": "p", "answer": "1"}, {"problem": "p" * 500, "answer": "1"}])
    monkeypatch.setattr(formats, "MOST_ROW_BYTES", 400)
    monkeypatch.setattr(formats, "BATCH", 1)
    with pytest.raises(ProblemFileError, match=r"(line 2|line 3|after row 1,) has more than 0 MiB"):
        list(numbered_rows(path))


def test_a_trace_longer_than_csv_allows_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"problem": "p", "answer": "1", "trace": "so " * 100_000}])
    assert len(next(numbered_rows(path))[1]["trace"]) == 300_000


def test_parquet_without_its_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ProblemFileError, match=r"needs pyarrow: pip install kv-gym\[parquet\]"):
        problem_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 99])
def test_damaged_parquet_is_refused(data: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(ProblemFileError, match="is no whole Parquet file"):
        list(numbered_rows(tmp_path / "a.parquet"))


def test_parquet_keeps_lists_and_objects(tmp_path: Path) -> None:
    rows = [{
        "prompt": [{"role": "user", "content": "1 + 1?"}], "reward_model": {"ground_truth": "2", "style": "rule"},
        "generations": ["so 2", "or 3"],
    }]  # fmt: skip
    path = write(tmp_path / "a.parquet", rows)
    assert list(numbered_rows(path)) == [(1, rows[0])]
    problem = problem_source(str(path), traces=True).problem("test", 0, 0)
    assert (problem.answer, problem.trace) == ("2", "so 2")


@pytest.fixture
def arrow() -> Any:
    return pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")


def save(table: Any, path: Path) -> Path:
    from pyarrow import parquet

    parquet.write_table(table, path)
    return path


def test_parquet_with_one_name_twice_is_refused(arrow: Any, tmp_path: Path) -> None:
    table = arrow.Table.from_arrays([arrow.array(["q"]), arrow.array(["2"]), arrow.array(["3"])], ["problem", "a", "a"])
    with pytest.raises(ProblemFileError, match=r"a\.parquet has two columns 'a'. Drop or rename one"):
        list(numbered_rows(save(table, tmp_path / "a.parquet")))


def test_short_floats_are_the_numbers_that_were_written(arrow: Any, tmp_path: Path) -> None:
    columns = {
        "problem": ["q", "r"], "answer": arrow.array([0.1, 2.5], arrow.float32()),
        "half": arrow.array([0.1, None], arrow.float16()),
        "list": arrow.array([[0.1], []], arrow.list_(arrow.float32())),
    }  # fmt: skip
    path = save(arrow.table(columns), tmp_path / "a.parquet")
    rows = [row for _, row in numbered_rows(path)]
    assert [row["answer"] for row in rows] == [0.1, 2.5]
    assert [row["half"] for row in rows] == [0.1, None] and [row["list"] for row in rows] == [[0.1], []]
    assert problem_source(str(path)).problem("test", 0, 0).answer == "0.1"


ODD: dict[str, Callable[[Any], Any]] = {
    "nanoseconds": lambda arrow: arrow.array([1], arrow.timestamp("ns")),
    "an unknown zone": lambda arrow: arrow.array([1], arrow.timestamp("us", "Foo/Bar")),
    "no UTF-8": lambda arrow: arrow.StringArray.from_buffers(
        1, arrow.py_buffer(b"\0\0\0\0\2\0\0\0"), arrow.py_buffer(b"\xff\xfe")
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_parquet_holds_and_python_does_not(kind: str, arrow: Any, tmp_path: Path) -> None:
    column = ODD[kind](arrow)
    beside = arrow.table({"problem": ["q"], "answer": ["2"], "made_at": column})
    source = problem_source(str(save(beside, tmp_path / "a.parquet")))
    assert source.problem("test", 0, 0).answer == "2", "nobody needs that column"
    with pytest.raises(ProblemFileError, match=r"column 'answer', in a row after row 0: its type .* Write it as text"):
        problem_source(str(save(arrow.table({"problem": ["q"], "answer": column}), tmp_path / "b.parquet")))
