"""What a submission is: a folder of data files, version 1. JSON Schemas of them are in `leaderboards/schema/v1`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from kv_gym.errors import KVGymError
from kv_gym.leaderboard.files import (
    AGENT_FOLDER,
    MAX_PLACE,
    MIB,
    PLACE,
    FileRefused,
    parse_json,
    read_bounded,
    unpack,
)
from kv_gym.leaderboard.text import text_complaint

SUBMISSION, EPISODES, ACTIONS, SYSTEM, SUMS = (
    "submission.json", "episodes.jsonl.gz", "actions.safetensors.xz", "system.json", "SHA256SUMS",
)  # fmt: skip
MAX_TEXT = 200
MAX_SOURCE, MAX_TRAINED, MAX_COMMAND, MAX_FAILED = 1000, 2000, 2000, 500
MAX_EPISODES = 20_000  # fifty times those of the board
MAX_EPISODES_BYTES = 32 * MIB  # unpacked
MAX_OPTIONS = 4000  # characters of their JSON

Text = Field(max_length=MAX_TEXT)
Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Hash = Field(pattern="^[0-9a-f]{64}$")
Share = Field(ge=0, le=1)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SubmittedAgent(_Model):
    """Which agent played.

    Attributes:
        name: What tables call it.
        source, sha256: Class with its settings, and hash of the file it is in (`kv_gym.identity.Identity`).
        options: What it was built with; of a file that travels, its path inside the submission.
        uses_hindsight, evicts: References do the one or not the other; they are lines, not entries.
        kind: `installed`: found by name. `checkpoint`: by name, with weights in `agent/`. `file`: its file is in
            `agent/`, with the modules that it imports from beside it and what it reads.
        trained: What a learned agent says of its training.
        file: Path inside the submission of the file that is loaded again, "" for an installed agent.
        class_name: The class in that file.
    """

    name: str = Text
    source: str = Field(max_length=MAX_SOURCE)
    sha256: str = Field(max_length=64)
    options: dict[str, JsonValue] = {}
    uses_hindsight: bool = False
    evicts: bool = True
    kind: Literal["installed", "checkpoint", "file"]
    trained: str = Field(default="", max_length=MAX_TRAINED)
    file: str = Field(default="", max_length=MAX_PLACE + 6, pattern=rf"^({AGENT_FOLDER}/{PLACE})?$")
    class_name: str = Text

    @field_validator("options")
    @classmethod
    def _bounded(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        n = len(json.dumps(options))
        if n > MAX_OPTIONS:
            raise PydanticCustomError("options", f"{n:,} characters of JSON; {MAX_OPTIONS:,} are allowed")
        return options


class CellSummary(_Model):
    """Means over the episodes of one environment at one budget; checkers compute them again.

    Attributes:
        accuracy, full_accuracy: Mean score, of the agent and of the full cache.
        retained: The one over the other; None where the full cache has none.
        mean_tokens: Generated tokens an episode.
        kv_slots_mean, kv_slots_peak: Live slots per layer and KV head: mean over episodes, and the most in any.
        scoring_share: Share of the time that the agent took; None where nothing was timed.
    """

    env_id: str = Text
    budget: int = Field(ge=1)
    n_episodes: int = Field(ge=1)
    accuracy: float = Share
    full_accuracy: float = Share
    retained: float | None = None
    mean_tokens: float
    kv_slots_mean: float
    kv_slots_peak: int
    scoring_share: float | None = None


class Reduction(_Model):
    """What a trial played instead of the protocol.

    Attributes:
        problems: The first so many; None for those of the protocol.
        budgets: Slots; none for those of the protocol.
    """

    problems: int | None = Field(default=None, ge=1)
    budgets: list[Annotated[int, Field(ge=1)]] = Field(default=[], max_length=20)


class Heading(_Model):
    """What a submitter says.

    Attributes:
        title, authors, link: For the board; `link` may be "".
        slug: Short name; the folder is called ``<date>_<slug>``.
        division: `closed`: the board's models and problems, nothing else changed. `open`: anything else, explained.
        trial: Played something else than the protocol asks for; never an entry.
        reduced: What a trial played.
    """

    title: str = Field(min_length=1, max_length=MAX_TEXT)
    slug: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,39}$")
    authors: list[Name] = Field(min_length=1, max_length=20)
    link: str = Field(default="", pattern=r"^(https?://\S{1,300})?$")
    division: Literal["closed", "open"] = "closed"
    trial: bool = False
    reduced: Reduction | None = None


class Submission(Heading):
    """`submission.json`: the heading and what was played.

    Attributes:
        protocol, protocol_sha256: What was played.
        models: Fingerprint of each frozen LLM.
        command, git, versions, threads, width: How it was made.
        references_sha256: Hash over the full-cache generations of all problems (`reference_digest`).
        cells: Means.
    """

    format: Literal[1] = 1
    date: str = Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    protocol: str = Text
    protocol_sha256: str = Hash
    agent: SubmittedAgent
    models: dict[str, str]
    command: str = Field(max_length=MAX_COMMAND)
    git: dict[str, str | bool] | None
    versions: dict[str, str]
    threads: int = Field(ge=1)
    width: int = Field(ge=1)
    references_sha256: str = Hash
    cells: list[CellSummary] = []

    @field_validator("date")
    @classmethod
    def _real(cls, text: str) -> str:
        try:
            date.fromisoformat(text)
        except ValueError as error:
            raise PydanticCustomError("date", f"{text} is no day of the calendar") from error
        return text

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.date}_{self.slug}"


class SubmittedEpisode(_Model):
    """A line of `episodes.jsonl.gz`.

    Attributes:
        problem, seed, family: What was played.
        correct, correct_full: Score of the agent and of the full cache, 0 to 1.
        tokens: Generated ones. `steps`: evictions. `stop`: `eos` or `length`.
        kv_slots_mean, kv_slots_peak: Live slots per layer and KV head while writing.
        tokens_sha256: Of the generated token ids. `actions_sha256`: of the kept slots, step by step.
        seconds, scoring_seconds: Share of the wall time; None where nothing was timed.
        failed: Class and message of what the agent raised, or why its answer could not be graded.
    """

    env_id: str = Text
    budget: int
    problem: str = Text
    seed: int = Field(ge=0)
    family: str = Text
    correct: float = Share
    correct_full: float = Share
    tokens: int = Field(ge=0)
    steps: int = Field(ge=0)
    stop: Literal["eos", "length", ""]
    kv_slots_mean: float = Field(ge=0)
    kv_slots_peak: int = Field(ge=0)
    tokens_sha256: str = Hash
    actions_sha256: str = Hash
    seconds: float | None = Field(default=None, ge=0)
    scoring_seconds: float | None = Field(default=None, ge=0)
    failed: str | None = Field(default=None, max_length=MAX_FAILED)

    @property
    def key(self) -> str:
        """Name of its actions."""
        return episode_key(self.env_id, self.budget, self.problem, self.seed)


def episode_key(env_id: str, budget: int, problem: str, seed: int) -> str:
    """Name of an episode inside a submission."""
    return f"{env_id}/{budget}/{problem}/{seed}"


class System(_Model):
    """`system.json`: the machine."""

    hardware: dict[str, str | int]
    versions: dict[str, str]
    threads: int
    platform: str


@dataclass(frozen=True)
class ReadSubmission:
    """A submission in memory."""

    folder: Path
    submission: Submission
    episodes: list[SubmittedEpisode]
    system: System


class SubmissionError(KVGymError, ValueError):
    """A submission cannot be read or used."""


def read_submission(folder: Path) -> ReadSubmission:
    """Read a submission's data (not its actions); sizes are bounded.

    Raises:
        FileRefused: A file is missing, too large or malformed, or a text holds what readers cannot see.
        ValidationError: A value is none of its field.
    """
    read = Submission.model_validate(_parsed(read_bounded(folder / SUBMISSION), SUBMISSION))
    system = System.model_validate(_parsed(read_bounded(folder / SYSTEM), SYSTEM))
    data = unpack(read_bounded(folder / EPISODES), EPISODES, MAX_EPISODES_BYTES)
    n = data.count(b"\n")  # before a list is made of them
    if n > MAX_EPISODES:
        raise FileRefused("schema.episodes", f"{EPISODES} holds {n:,} lines; {MAX_EPISODES:,} are allowed.")
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    return ReadSubmission(folder, read, [SubmittedEpisode.model_validate(_parsed(x, EPISODES)) for x in lines], system)


def _parsed(data: bytes, name: str) -> Any:
    value = parse_json(data)
    complaint = text_complaint(value)
    if complaint:
        raise FileRefused("schema.text", f"{name}: {complaint}")
    return value


def summarise(episodes: Sequence[SubmittedEpisode]) -> list[CellSummary]:
    """Means per environment and budget, in the order in which they first come."""
    cells: dict[tuple[str, int], list[SubmittedEpisode]] = {}
    for episode in episodes:
        cells.setdefault((episode.env_id, episode.budget), []).append(episode)
    return [_summary(rows) for rows in cells.values()]


def _summary(rows: list[SubmittedEpisode]) -> CellSummary:
    def mean(values: Iterable[float]) -> float:
        return round(float(np.mean(list(values))), 6)

    accuracy, full = mean(row.correct for row in rows), mean(row.correct_full for row in rows)
    timed = [(row.seconds, row.scoring_seconds) for row in rows if row.seconds and row.scoring_seconds is not None]
    share = sum(part for _, part in timed if part) / sum(whole for whole, _ in timed) if timed else None
    return CellSummary(
        env_id=rows[0].env_id,
        budget=rows[0].budget,
        n_episodes=len(rows),
        accuracy=accuracy,
        full_accuracy=full,
        retained=round(accuracy / full, 6) if full else None,
        mean_tokens=mean(row.tokens for row in rows),
        kv_slots_mean=mean(row.kv_slots_mean for row in rows),
        kv_slots_peak=max(row.kv_slots_peak for row in rows),
        scoring_share=None if share is None else round(share, 6),
    )


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas by file name."""
    models: dict[str, type[BaseModel]] = {"submission": Submission, "episode": SubmittedEpisode, "system": System}
    return {f"{name}.schema.json": model.model_json_schema() for name, model in models.items()}


def write_schemas(folder: Path) -> None:
    """Write them to a folder, such as `leaderboards/schema/v1`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(json.dumps(schema, indent=1) + "\n")
