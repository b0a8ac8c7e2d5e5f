"""Running an agent on the board's protocol and writing its submission. Resumes where it stopped."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from kv_gym.agents import AgentLike, load_agent
from kv_gym.bench import provenance
from kv_gym.bench.guard import ModelTouched, building, prepare_watched
from kv_gym.bench.playing import Playing
from kv_gym.bench.progress import Progress
from kv_gym.bench.rows import sha256_of
from kv_gym.bench.workers import Workers
from kv_gym.errors import ConfigError, first_complaint
from kv_gym.files import LineFile
from kv_gym.identity import NotJSON, identity_of, json_value
from kv_gym.leaderboard.actions import pack_actions
from kv_gym.leaderboard.alone import Trial, check_alone
from kv_gym.leaderboard.files import AGENT_FOLDER
from kv_gym.leaderboard.luggage import luggage, packed_options
from kv_gym.leaderboard.play import BoardCell, board_cells, play_apart, play_cell, reference_digest
from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.submission import (
    ACTIONS,
    EPISODES,
    MAX_COMMAND,
    MAX_SOURCE,
    MAX_TRAINED,
    SUBMISSION,
    SUMS,
    SYSTEM,
    Heading,
    Submission,
    SubmissionError,
    SubmittedAgent,
    SubmittedEpisode,
    System,
    summarise,
)
from kv_gym.leaderboard.text import one_line, text_complaint

LINE_STARTS = (b'{"mark": ', b'{"row": ')


@dataclass(frozen=True)
class Entry:
    """What is submitted.

    Attributes:
        agent: Name, or path/to/mine.py:MyAgent.
        options: What it is built with.
        heading: What the submitter says of it.
    """

    agent: str
    options: dict[str, Any]
    heading: Heading


def make_heading(**said: Any) -> Heading:
    """Check what a submitter says.

    Raises:
        ConfigError: Something is too long or empty, holds what readers cannot see, the link is none, or the slug has
            other characters.
    """
    remedy = "Change --author, --title, --slug or --link of `kv-gym submit new`."
    complaint = text_complaint(said)
    if complaint:
        raise ConfigError(f"{complaint} {remedy}")
    try:
        return Heading(**said)
    except ValidationError as error:
        raise ConfigError(f"{first_complaint(error)}. {remedy}") from error


def slug_of(title: str) -> str:
    """A short name made from a title: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "agent"


def make_submission(
    entry: Entry, protocol: Protocol, out: Path, progress: Progress, workers: Workers | None = None
) -> Path:
    """Play the protocol and write the submission's folder.

    Args:
        entry: What is submitted.
        protocol: What is played.
        out: Folder of submissions.
        progress: Told how far it is.
        workers: Who plays; by default this process does, as it always makes the full-cache texts.

    Raises:
        KVGymError: The agent does not exist, refuses the model, or cannot be loaded from its submission alone; or a
            submission of this name is there already.
    """
    heading, begun = entry.heading, out / f".{entry.heading.slug}.partial.jsonl"
    with building(f"agent {entry.agent!r}"):
        agent = load_agent(entry.agent, **entry.options)
    today = datetime.now(UTC).date().isoformat()
    if not begun.exists():
        _check_new(_target(out, today, heading))
    cells = board_cells(protocol, progress)
    for llm in {id(cell.llm): cell.llm for cell in cells}.values():
        prepare_watched(llm, agent)
    source, references = identity_of(agent), reference_digest(cells)
    mark = sha256_of([protocol.sha256, source.where, source.sha256, references])
    described, files = describe_agent(entry, agent)
    with Partial(begun, mark, today) as partial:
        target = _target(out, partial.date, heading)
        if target.exists() and partial.complete(cells):  # a kill after the last step but one
            partial.remove()
            return target
        _check_new(target)
        folder = out / f".{heading.slug}.writing"
        _pack(folder, files)
        trial = Trial.of(cells, agent) if files else None
        if files and not partial.rows:  # hours before the end, where it can be checked
            check_alone(folder, described, trial)
        try:
            _play_all(cells, agent, entry, protocol.width, partial, progress, workers)
        except ModelTouched as touched:
            raise SubmissionError(f"agent {agent.name!r}: {touched} Such agents cannot be submitted.") from touched
        episodes = partial.in_order(cells)
        submission = Submission(
            **heading.model_dump(), date=partial.date, protocol=protocol.id, protocol_sha256=protocol.sha256,
            agent=described, models={cell.config.model: cell.llm.fingerprint for cell in cells},
            command=one_line(provenance.command(), MAX_COMMAND), git=provenance.git_state(output=out),
            versions=provenance.versions(), width=protocol.width,
            threads=torch.get_num_threads() if workers is None or not agent.evicts else workers.own_threads,
            references_sha256=references, cells=summarise(episodes),
        )  # fmt: skip
        write_folder(folder, submission, episodes, partial.evicted, cells[0].llm.shape.device)
        if files:
            check_alone(folder, described, trial)
        os.replace(folder, target)
        partial.remove()
    return target


def _target(out: Path, date: str, heading: Heading) -> Path:
    """Folder of a finished submission."""
    return out / f"{date}_{heading.slug}"


def _check_new(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target} exists: it is finished. Remove it to play again, or choose another --slug.")


def _pack(folder: Path, files: dict[str, Path]) -> None:
    """Copy the agent's files before it plays: what changes meanwhile did not play."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / AGENT_FOLDER).mkdir(parents=True)
    for place, path in files.items():
        target = folder / AGENT_FOLDER / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _play_all(
    cells: list[BoardCell], agent: AgentLike, entry: Entry, width: int, partial: Partial, progress: Progress,
    workers: Workers | None = None,
) -> None:  # fmt: skip
    """Play what the unfinished submission does not hold, and what failed before: the cause may be gone.

    Raises:
        ModelTouched: The agent changed the model.
    """
    todo = [(cell, [e for e in cell.wanted if not partial.played_well(cell.key(e))]) for cell in cells]
    playing = Playing(partial.path)
    progress.begin("episodes", sum(len(episodes) for _, episodes in todo))
    if workers is not None and agent.evicts:
        fresh = load_agent(entry.agent, **entry.options)  # as it is before it sees a model
        for row, evicted in play_apart([pair for pair in todo if pair[1]], fresh, width, workers):
            partial.add(row, evicted)
            progress.advance(1)
        return
    seen = cells[-1].llm
    for cell, episodes in todo:
        if episodes:
            if cell.llm is not seen:
                prepare_watched(cell.llm, agent)
                seen = cell.llm
            progress.describe(f"{agent.name}, {cell.env_id}, budget {cell.config.budget}")
            with playing.note(f"{agent.name} in {cell.env_id} at budget {cell.config.budget}"):
                for row, evicted in play_cell(cell, agent, episodes, width):
                    partial.add(row, evicted)
                    progress.advance(1)


class Partial:
    """Episodes of an unfinished submission, a line each; what a kill leaves is read again.

    Args:
        path: The file; the first line holds the mark and the date. One without episodes is begun anew.
        mark: Of agent, protocol and models.
        today: Date of a submission that begins now.

    Attributes:
        date: Day on which it began, which its folder is named by.
        rows, evicted: What it holds, by key.

    Raises:
        ConfigError: It is of another agent, protocol or model, or a line is damaged.
        InUseError: Another process makes a submission of this name.
    """

    def __init__(self, path: Path, mark: str, today: str) -> None:
        self.path, self.date = path, today
        self.rows: dict[str, SubmittedEpisode] = {}
        self.evicted: dict[str, Tensor] = {}
        self._file = LineFile(path, "the unfinished submission", "choose another --slug", LINE_STARTS)
        try:
            self._read(mark)
        except BaseException:
            self._file.close()
            raise

    def _read(self, mark: str) -> None:
        if len(self._file.lines) == 1 and _is_first(self._file.lines[0]):
            self._file.clear()  # of an agent that was refused before it played
        if not self._file.lines:
            self._file.add(json.dumps({"mark": mark, "date": self.date}).encode())
        else:
            self.date = _date_of(self._file.lines[0], mark, self.path)
        for number, line in enumerate(self._file.lines[1:], 2):
            try:
                found = json.loads(line)
                self._keep(SubmittedEpisode.model_validate(found["row"]), _decode(found["evicted"]))
            except (ValueError, KeyError, TypeError, IndexError, RecursionError, zlib.error) as error:
                raise ConfigError(
                    f"{self.path}, line {number} is damaged. Delete that line: its episode is played again. The other "
                    f"{len(self._file.lines) - 2} episodes stay."
                ) from error

    def add(self, row: SubmittedEpisode, evicted: Tensor | None) -> None:
        """Append one episode. When this returns, a kill of the process cannot lose it."""
        self._file.add(json.dumps({"row": row.model_dump(mode="json"), "evicted": _encode(evicted)}).encode())
        self._keep(row, evicted)

    def _keep(self, row: SubmittedEpisode, evicted: Tensor | None) -> None:
        self.rows[row.key] = row
        if evicted is not None and len(evicted):
            self.evicted[row.key] = evicted

    def played_well(self, key: str) -> bool:
        """Whether it holds an episode in which the agent did not fail."""
        return key in self.rows and self.rows[key].failed is None

    def complete(self, cells: list[BoardCell]) -> bool:
        """Whether it holds every episode of the plan."""
        return all(cell.key(episode) in self.rows for cell in cells for episode in cell.wanted)

    def in_order(self, cells: list[BoardCell]) -> list[SubmittedEpisode]:
        """All episodes in the order of the plan."""
        return [self.rows[cell.key(episode)] for cell in cells for episode in cell.wanted]

    def remove(self) -> None:
        """Delete the file: the submission is written."""
        self._file.remove()

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _is_first(line: bytes) -> bool:
    """Whether a line is the first of an unfinished submission."""
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.keys() == {"mark", "date"}


def _date_of(line: bytes, mark: str, path: Path) -> str:
    """Date in the first line of an unfinished submission.

    Raises:
        ConfigError: It has another mark, or no date.
    """
    try:
        first = json.loads(line)
        if first["mark"] == mark:
            return date.fromisoformat(first["date"]).isoformat()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ConfigError(f"{path} is of another agent, protocol or model. Delete it, or choose another --slug.")


def _encode(evicted: Tensor | None) -> list[Any] | None:
    if evicted is None:
        return None
    packed = zlib.compress(evicted.to(torch.int16).numpy().tobytes())
    return [list(evicted.shape), base64.b64encode(packed).decode()]


def _decode(found: list[Any] | None) -> Tensor | None:
    if found is None:
        return None
    values = np.frombuffer(zlib.decompress(base64.b64decode(found[1])), dtype=np.int16)
    return torch.from_numpy(values.copy()).reshape(found[0])


def describe_agent(entry: Entry, agent: AgentLike) -> tuple[SubmittedAgent, dict[str, Path]]:
    """What a submission says of its agent, and the files that go into `agent/`, by their place there.

    Raises:
        ConfigError: A file is none that a submission holds, or a text or option cannot be part of one.
    """
    source = identity_of(agent)
    name, colon, class_name = entry.agent.rpartition(":")
    files = luggage(agent, Path(name) if colon else None)
    kind: Literal["installed", "checkpoint", "file"] = "file" if colon else "checkpoint" if files else "installed"
    about = getattr(agent, "about", None)
    try:
        described = SubmittedAgent(
            name=agent.name, source=one_line(source.where, MAX_SOURCE), sha256=source.sha256,
            options=packed_options(json_value(entry.options), files), uses_hindsight=agent.uses_hindsight,
            evicts=agent.evicts, kind=kind, trained=one_line(about(), MAX_TRAINED) if about else "",
            file=f"{AGENT_FOLDER}/{next(iter(files))}" if files else "", class_name=class_name or entry.agent,
        )  # fmt: skip
        complaint = text_complaint(described.model_dump())
    except NotJSON as error:
        complaint = f"options: {error}. Options are numbers, texts, lists and objects."
    except ValidationError as error:
        complaint = f"{first_complaint(error)}."
    if complaint:
        raise ConfigError(f"agent {entry.agent!r} cannot be part of a submission: {complaint}")
    return described, files


def write_folder(
    folder: Path, submission: Submission, episodes: list[SubmittedEpisode], evicted: dict[str, Tensor],
    device: torch.device,
) -> None:  # fmt: skip
    """Write all files of a submission beside its agent's."""
    (folder / SUBMISSION).write_text(json.dumps(submission.model_dump(mode="json"), indent=1) + "\n")
    lines = "".join(json.dumps(row.model_dump(mode="json")) + "\n" for row in episodes)
    (folder / EPISODES).write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    (folder / ACTIONS).write_bytes(pack_actions(evicted))
    system = System(
        hardware=provenance.hardware(device), versions=submission.versions, threads=submission.threads,
        platform=platform.platform(),
    )  # fmt: skip
    (folder / SYSTEM).write_text(json.dumps(system.model_dump(mode="json"), indent=1) + "\n")
    write_sums(folder)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all other files, as `sha256sum -c` reads it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in paths
    ]
    (folder / SUMS).write_text("".join(lines))
