"""Result rows: an append-only JSONL file that survives a kill at any point.

Two kinds of line. A `run` line says once what all episodes of one `kv-gym bench` call share: versions, hardware,
threads, commit, settings. An `episode` line holds one episode and names its run by `run_id`, the hash of that run line.
Each line is written in one piece; a last line that ends in the middle was torn by a kill, and is overwritten when the
file grows again. An episode that failed is played again by the next run, whose row then counts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from kv_gym.engine.measures import result_columns
from kv_gym.errors import ConfigError, KVGymError, first_complaint
from kv_gym.files import LineFile, split_lines

RowKey = tuple[str | int, ...]
SCHEMA = 1
LINE_STARTS = (b'{"schema_version": ',)
LATER_FIELDS = ("agents", "migrated")  # of run lines: ids of lines without them are what they were


class RowFileError(KVGymError):
    """A file of rows is damaged, or of another version."""


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1


class RunRow(_Line):
    """What all episodes of one run share.

    Attributes:
        run_id: Hash of the rest.
        started: UTC, ISO 8601.
        command: What was typed.
        versions: Of kv_gym, python and the libraries that can move a number.
        git: `commit` and `dirty` of the source tree; None outside git.
        hardware: `cpu`, `cores`, `platform`, `device`.
        threads: torch threads.
        width: Episodes side by side.
        model: `name`, `revision`, `dtype`, `fingerprint`.
        settings: Every setting of the env that can move a result, without budget and mode.
        settings_sha256: Their hash.
        agents: Identity of each agent (`kv_gym.identity`), by the hash that its rows have.
        plan: `env_id`, `split`, `agents`, `budgets`, `modes`, `problems`, `seeds`.
        left_out: Problems that are too short or too long to be played, by budget.
        migrated: How its rows came to have the hashes of a newer version (`kv_gym.bench.migrate`); None where they were
            made with them.
    """

    kind: Literal["run"] = "run"
    run_id: str = ""
    started: str
    command: str
    versions: dict[str, str]
    git: dict[str, str | bool] | None
    hardware: dict[str, str | int]
    threads: int
    width: int
    model: dict[str, str | None]
    settings: dict[str, Any]
    settings_sha256: str
    plan: dict[str, Any]
    agents: dict[str, dict[str, Any]] = {}
    left_out: dict[int, list[str]]
    migrated: dict[str, Any] | None = None

    def signed(self) -> RunRow:
        """Return the row with its id."""
        return self.model_copy(update={"run_id": self._hash()})

    def _hash(self) -> str:
        absent = {name for name in LATER_FIELDS if not getattr(self, name)}
        return sha256_of(self.model_dump(mode="json", exclude={"run_id", *absent}))[:16]

    @model_validator(mode="after")
    def _is_what_was_signed(self) -> RunRow:
        if self.run_id and self.run_id != self._hash():
            raise ValueError(f"its contents do not match its run_id {self.run_id[:16]!r}")
        return self


class EpisodeRow(_Line):
    """One episode. What was not measured, or failed, is None.

    Attributes:
        run_id: The `run` line it belongs to.
        mode: `generate`: accuracy is measured. `replay`: loss, loss spike and missed attention are.
        agent, agent_source, agent_sha256: Name, class with its settings, hash of its identity (`kv_gym.identity`),
            which starts with "unnamed-" where the agent has none and is played again each time.
        uses_hindsight, evicts: What kind of agent it is; reference lines are not ranked.
        budget, evict_every: Slots.
        failed: Class and message of what the agent raised, or why its answer could not be graded; None when it went
            well.
        correct: Score of the answer, 0 to 1. `correct_full`: with the full cache.
        stop: `eos` or `length`. `stop_full`: with the full cache; None in rows of older versions.
        n_tokens: Generated tokens, the reference's first ones included. `n_steps`: evictions.
        kv_bytes_peak, kv_bytes_mean: Bytes of keys and values held while writing.
        seconds: Share of the wall time; the shares of a cell sum to its time. `scoring_seconds`: what of it the agent
            took.
        tokens_per_second: New tokens of this episode over `seconds`; with `width` episodes side by side that is the
            throughput of the whole batch. None for stored references.
        tokens_sha256, actions_sha256, reference_hash, problem_sha256: What was written, kept, referred to and asked.
        model, model_fingerprint, settings_sha256: What it was made with; the run line has the rest.
        grading: Version of the rules that answers are compared by (`kv_gym.problems.grading`); 1 in rows that do not
            say.
        computation: How it was computed: dtype, kind of device, eager or compiled, libraries.

    Besides, a row has the columns of `kv_gym.engine.measures` (`measured`).
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)] | None] = Field(init=False)

    kind: Literal["episode"] = "episode"
    run_id: str
    env_id: str
    mode: Literal["generate", "replay"]
    split: str
    agent: str
    agent_source: str
    agent_sha256: str
    uses_hindsight: bool
    evicts: bool
    budget: int = Field(ge=1)
    evict_every: int = Field(ge=1)
    problem: str
    family: str
    seed: int = Field(ge=0)
    failed: str | None = None
    correct: Share | None = None
    correct_full: Share
    stop: str | None = None
    stop_full: str | None = None
    n_tokens: Count | None = None
    n_steps: Count | None = None
    kv_bytes_peak: Count | None = None
    kv_bytes_mean: Amount | None = None
    seconds: Amount | None = None
    scoring_seconds: Amount | None = None
    tokens_per_second: Amount | None = None
    tokens_sha256: str | None = None
    actions_sha256: str | None = None
    reference_hash: str
    problem_sha256: str
    model: str
    model_fingerprint: str
    settings_sha256: str
    computation: str = ""
    grading: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _columns_are_known(self) -> EpisodeRow:
        known = result_columns()
        for name in self.__pydantic_extra__:
            if name not in known:
                raise ValueError(f"there is no column {name[:100]!r}")
        return self

    def measured(self, column: str) -> float | None:
        """Value of a column of `kv_gym.engine.measures`; None where it was not measured."""
        return self.__pydantic_extra__.get(column)

    def replaces(self, other: EpisodeRow) -> bool:
        """Whether it counts instead of an earlier row of its key: that one failed, or less of it was measured."""
        if other.failed is not None or self.failed is not None:
            return other.failed not in (None, self.failed)
        mine, theirs = (
            {name for name, value in row.__pydantic_extra__.items() if value is not None} for row in (self, other)
        )
        return mine > theirs

    @property
    def key(self) -> RowKey:
        """What must be equal for a row to be the same episode; a resumed run skips the keys it finds."""
        return (
            self.env_id, self.mode, self.agent, self.agent_source, self.agent_sha256, self.budget,
            self.problem, self.problem_sha256, self.seed, self.model_fingerprint, self.settings_sha256,
            self.computation, self.grading,
        )  # fmt: skip


def check_columns() -> None:
    """Refuse a measure whose column is a field of rows.

    Raises:
        ConfigError: Names it.
    """
    for name in result_columns().keys() & EpisodeRow.model_fields.keys():
        raise ConfigError(f"the measure {name!r} has the name of a field of every row. Give it another.")


check_columns()


@dataclass
class Rows:
    """The content of a file: its runs by id, and its episodes in order, each once."""

    runs: dict[str, RunRow]
    episodes: dict[RowKey, EpisodeRow]

    def add(self, line: RunRow | EpisodeRow) -> None:
        """Add one line; of two episodes with one key the first stays, unless the later one replaces it."""
        if isinstance(line, RunRow):
            self.runs[line.run_id] = line
        elif line.run_id not in self.runs:
            raise ValueError(f"there is no run line {line.run_id!r} before it")
        else:
            known = self.episodes.get(line.key)
            if known is None or line.replaces(known):
                self.episodes[line.key] = line


_LINE: TypeAdapter[RunRow | EpisodeRow] = TypeAdapter(Annotated[RunRow | EpisodeRow, Field(discriminator="kind")])


def sha256_of(value: Any) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_rows(lines: Sequence[bytes], name: str) -> Rows:
    """Read whole lines.

    Raises:
        RowFileError: One cannot be read.
    """
    rows = Rows({}, {})
    for number, line in enumerate(lines, 1):
        try:
            rows.add(_LINE.validate_json(line))
        except ValueError as error:
            raise RowFileError(_complaint(name, number, line, error)) from error
    return rows


def _complaint(name: str, number: int, line: bytes, error: ValueError) -> str:
    """What is wrong with a line, and what to do."""
    version = _version(line)
    if version is not None and version > SCHEMA:
        return (
            f"{name}, line {number} was written by a newer kv-gym (schema {version}; this one reads up to {SCHEMA}). "
            "Update kv-gym, or write to another folder with --out."
        )
    reason = first_complaint(error) if isinstance(error, ValidationError) else str(error)
    return (
        f"{name}, line {number} is not a row of this version: {reason}. Delete that line (its episode is played "
        "again), or write to another folder with --out."
    )


def _version(line: bytes) -> int | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    version = found.get("schema_version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else None


def read_rows(path: Path) -> Rows:
    """Read a file of rows, gzipped if its name ends with `.gz`, even while it is being written.

    Raises:
        RowFileError: There is no such file, or a line cannot be read.
    """
    if not path.is_file():
        raise RowFileError(f"{path} does not exist. `kv-gym bench` writes rows to runs/bench/<env id>/rows.jsonl.")
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise RowFileError(f"{path} is no gzip file, or damaged: {error}. Copy it again.") from error
    return parse_rows(split_lines(data)[0], str(path))


def _encoded(line: RunRow | EpisodeRow) -> bytes:
    return json.dumps(line.model_dump(mode="python"), allow_nan=False).encode()


def packed(lines: Sequence[RunRow | EpisodeRow], path: Path) -> bytes:
    """The content of a whole file, gzipped if its name ends with `.gz`."""
    data = b"".join(_encoded(line) + b"\n" for line in lines)
    return gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data


class RowFile:
    """A file of rows, open for appending by one process at a time.

    Args:
        path: Made with its folders if it does not exist; a torn last line is overwritten by the first that is added.

    Attributes:
        rows: What the file holds.

    Raises:
        RowFileError: A line cannot be read.
        InUseError: Another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path, "the rows", "use another --out", LINE_STARTS)
        try:
            self.rows = parse_rows(self._file.lines, str(path))
        except BaseException:
            self._file.close()
            raise

    def add(self, line: RunRow | EpisodeRow) -> None:
        """Append one line. When this returns, a kill of the process cannot lose it."""
        data = _encoded(line)
        self.rows.add(line)
        self._file.add(data)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
