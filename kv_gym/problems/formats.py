"""Files of rows in the formats of the field: JSON lines, JSON, CSV (each also gzipped) and Parquet.

A file is data that nobody vouches for: its size, its rows and what it unpacks to are bounded, and whatever is wrong is
said with the place where it is.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kv_gym.errors import ProblemFileError

MOST_ROWS = 1_000_000
MOST_BYTES = 2**31  # of a file, unpacked
MOST_BYTES_WHOLE = 2**28  # of a .json file, which is read in one piece
BATCH = 64  # rows of Parquet that are unpacked together
MOST_ROW_BYTES = 2**23  # of one row; a text of 32,000 tokens takes about 2**17
NO_TEXT = {
    b"\x1f\x8b": "is packed with gzip. Name it .gz, or unpack it", b"PK\x03\x04": "is a zip archive. Unpack it",
    b"PAR1": "is a Parquet file. Name it .parquet", b"\xff\xfe": "is in UTF-16. Write it again in UTF-8",
    b"\xfe\xff": "is in UTF-16. Write it again in UTF-8",
}  # fmt: skip
"""What a file is that begins so, and not lines of text."""

Row = Mapping[str, Any]


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file of rows, there or not."""
    return _suffix(Path(name)) in FORMATS


def stem(path: Path) -> str:
    """Name of a file without what says its format."""
    return path.name[: -len(_suffix(path))] if _suffix(path) in FORMATS else path.stem


def unit(path: Path) -> str:
    """What a row is: a line; of .json an item, of .parquet a row."""
    return UNITS.get(_suffix(path).removesuffix(".gz"), "line")


def numbered_rows(path: Path, wanted: Callable[[str], bool] = bool) -> Iterator[tuple[int, Row]]:
    """The rows of a file with the number of the line (item, row) that each starts at, counted from 1.

    Args:
        path: The file.
        wanted: Whether a column is looked at, by its name. What is in the other columns of a Parquet file is not read:
            their values are None.

    Raises:
        ProblemFileError: There is no such file, it is damaged or too large, or no row of its format.
    """
    if not path.is_file():
        raise ProblemFileError(f"problems={str(path)!r}: there is no such file. Give one of {', '.join(FORMATS)}.")
    if _suffix(path) not in FORMATS:
        raise ProblemFileError(f"{path}: no format of problems ends so. Give one of {', '.join(FORMATS)}.")
    rows = _parquet(path, wanted) if _suffix(path) == ".parquet" else FORMATS[_suffix(path)](path)
    for count, found in enumerate(rows, 1):
        if count > MOST_ROWS:
            raise ProblemFileError(f"{path} has more than {MOST_ROWS:,} rows. Give a part of it.")
        yield found


def _suffix(path: Path) -> str:
    """What says the format: the last ending, and the one before `.gz`."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    return "".join(endings if endings[-1:] == [".gz"] else endings[-1:])


# --- Bytes and JSON ----------------------------------------------------------------------------------------------


class _Bounded(io.RawIOBase):
    """The bytes of a file, unpacked, and no more than `most`: a small gzip may hold terabytes."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most, self._read = path, most, 0
        opened = gzip.GzipFile if path.suffix.lower() == ".gz" else io.FileIO
        self._file: io.BufferedIOBase | io.RawIOBase = opened(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ProblemFileError(
                f"{self._path} is no whole gzip file: {error}. Copy or download it again."
            ) from error
        self._read += len(data)
        _check_total(self._read, self._most, self._path)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path, most: int) -> io.BufferedReader:
    """Open a file of text, which may be packed."""
    file: io.BufferedReader = io.BufferedReader(_Bounded(path, most), 2**16)
    start = file.peek(4)[:4]
    found = next((what for mark, what in NO_TEXT.items() if start.startswith(mark)), None)
    if found is not None:
        inside = ", unpacked," if path.suffix.lower() == ".gz" else ""
        file.close()
        raise ProblemFileError(f"{path}{inside} {found}.")
    return file


def _parse(text: bytes, where: str) -> Any:
    """Read JSON; a key that an object has twice would leave a choice, so it is refused."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # JSON, UTF-8, huge numbers, deep nesting
        is_torn = not text.endswith(b"\n") and _ends_early(error)
        torn = " The file ends in the middle of it: it was cut off." if is_torn else ""
        raise ProblemFileError(f"{where} is not JSON: {str(error)[:200]}.{torn}") from error


def _ends_early(error: BaseException) -> bool:
    """Whether JSON is wrong only because it stops: in a text, a number, a word, or where more must follow."""
    if isinstance(error, UnicodeDecodeError):
        return error.reason == "unexpected end of data"
    if not isinstance(error, json.JSONDecodeError):
        return False
    rest = error.doc[error.pos :].strip()
    return (
        error.msg.startswith("Unterminated string")
        or any(word.startswith(rest) for word in ("true", "false", "null", "-Infinity", "NaN"))
        or ("escape" in error.msg and re.fullmatch(r"\\?u?[0-9A-Fa-f]{0,3}", rest) is not None)
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key {twice[:80]!r} twice")
    return found


def _row(found: Any, where: str) -> Row:
    if not isinstance(found, dict):
        raise ProblemFileError(f"{where} is not a JSON object. A problem is written {{...}}.")
    return found


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    with _open(path, MOST_BYTES) as file:
        number = 0
        while line := file.readline(MOST_ROW_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            _check_size(len(line), where)
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # Windows' mark of UTF-8
            if line.strip():
                yield number, _row(_parse(line, where), where)


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    with _open(path, MOST_BYTES_WHOLE) as file:
        found = _parse(file.read().removeprefix(b"\xef\xbb\xbf"), str(path))
    if isinstance(found, dict):
        lists = [key for key, value in found.items() if isinstance(value, list)]
        if len(lists) != 1:
            which = f"has the lists {', '.join(map(repr, lists))[:200]}" if lists else "has none"
            raise ProblemFileError(f"{path} must be a list of problems, or an object with one list; it {which}.")
        found = found[lists[0]]
    if not isinstance(found, list):
        raise ProblemFileError(f"{path} must be a list of problems, or an object with one list.")
    for number, item in enumerate(found, 1):
        yield number, _row(item, f"{path}, item {number}")


def _check_total(size: int, most: int, path: Path) -> None:
    if size > most:
        fix = "Give a part of it, or .jsonl, which is read line by line" if most < MOST_BYTES else "Give a part of it"
        raise ProblemFileError(f"{path} holds more than {most / 2**20:,.0f} MiB. {fix}.")


def _check_size(size: int, where: str) -> None:
    if size > MOST_ROW_BYTES:
        raise ProblemFileError(f"{where} has more than {MOST_ROW_BYTES / 2**20:.0f} MiB. Leave it out.")


# --- Tables ------------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(max(csv.field_size_limit(), MOST_ROW_BYTES))  # the default is less than a long trace
    with _open(path, MOST_BYTES) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        number = 1
        try:
            names = next(reader, [])
            _check_names(names, path)
            number = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(names):
                    raise ProblemFileError(
                        f"{path}, line {number} has {len(cells)} cells and line 1 names {len(names)} columns. Put "
                        "cells that hold commas or line ends into quotation marks."
                    )
                _check_size(sum(map(len, cells)), f"{path}, line {number}")
                if cells:
                    row = dict(zip(names, cells, strict=True))
                    row.pop("", None)
                    yield number, row
                number = reader.line_num + 1
        except csv.Error as error:
            raise ProblemFileError(f"{path}, from line {number} on, is not CSV in UTF-8: {error}.") from error
        except UnicodeDecodeError as error:  # of a piece of the file, which ends anywhere
            raise ProblemFileError(
                f"{path}, line {_line_of_other_bytes(path)} is not CSV in UTF-8 ({error.reason}). Write the file again."
            ) from error


def _check_names(names: list[str], path: Path) -> None:
    """Refuse a first line that does not name the columns; the first may have none, as pandas writes its index."""
    other = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise ProblemFileError(f"{path}, line 1 has {other!r} between its names. Write the file again with commas.")
    if not all(names[1:]) or names in ([], [""]) or len(set(names)) < len(names):
        raise ProblemFileError(
            f"{path}, line 1 must name each column, with different names; it has {str(names)[:300]}."
        )


def _line_of_other_bytes(path: Path) -> int:
    """The first line that is not UTF-8."""
    decoder, number = codecs.getincrementaldecoder("utf-8")(), 1
    with _open(path, MOST_BYTES) as file:
        while piece := file.read(2**16):
            try:
                number += decoder.decode(piece).count("\n")
            except UnicodeDecodeError as error:
                return number + error.object[: error.start].count(b"\n")
    return number


def _parquet(path: Path, wanted: Callable[[str], bool] = bool) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise ProblemFileError(f"{path}: reading Parquet needs pyarrow: pip install kv-gym[parquet].") from error
    number = size = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            twice = next((name for name, n in Counter(names).items() if n > 1), None)
            if twice is not None:
                raise ProblemFileError(f"{path} has two columns {twice[:80]!r}. Drop or rename one.")
            for batch in file.iter_batches(batch_size=BATCH, columns=[name for name in names if wanted(name)]):
                size += batch.nbytes
                _check_total(size, MOST_BYTES, path)
                _check_size(batch.nbytes // BATCH, f"{path}, one of the rows after row {number},")
                columns = {name: _values(batch, name, path, number) for name in batch.schema.names if wanted(name)}
                for i in range(batch.num_rows):
                    number += 1
                    yield number, {name: columns[name][i] if name in columns else None for name in names}
    except (arrow.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise ProblemFileError(f"{path} is no whole Parquet file (row {number + 1}): {first}.") from error


def _values(batch: Any, name: str, path: Path, before: int) -> list[Any]:
    """What is in a column of some rows of Parquet, which may hold what Python has no type for.

    Raises:
        ProblemFileError: Names the column.
    """
    column = batch.column(name)
    try:
        return [_shortest(value, column.type) for value in column.to_pylist()]
    except Exception as error:  # bytes that are no UTF-8, nanoseconds, unknown time zones: each raises another
        first = (str(error).splitlines() or [""])[0][:200]
        raise ProblemFileError(
            f"{path}, column {name[:80]!r}, in a row after row {before}: its type {str(column.type)[:80]} cannot be "
            f"read here ({type(error).__name__}: {first}). Write it as text."
        ) from error


def _shortest(value: Any, kind: Any) -> Any:
    """A value of Parquet; of short floats, and lists of them, the shortest number that is one: 0.1, not 0.100000001."""
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_shortest(one, kind.value_type) for one in value]
    if value is not None and str(kind) in ("float", "halffloat"):
        return float(str(kind.to_pandas_dtype()(value)))
    return value


Reader = Callable[[Path], Iterator[tuple[int, Row]]]
FORMATS: dict[str, Reader] = {
    ".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet,
    ".jsonl.gz": _json_lines, ".json.gz": _json, ".csv.gz": _csv,
}  # fmt: skip
UNITS = {".json": "item", ".parquet": "row"}
