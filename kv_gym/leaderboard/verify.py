"""Checking a submission: its form, its arithmetic, a sample of it played again, and the agent itself.

Levels build on each other. `schema` reads the files and trusts nothing. `arithmetic` computes again what follows from
the rows, and compares with this machine's own full-cache generations. `replay` plays a random sample again from the
recorded actions: that is what the actions lead to, whoever chose them. Only `rerun` runs the submitter's code.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from kv_gym.bench.plan import Episode
from kv_gym.bench.progress import Progress
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.eviction import others
from kv_gym.errors import first_complaint
from kv_gym.leaderboard.actions import actions_hash, unpack_actions
from kv_gym.leaderboard.files import AGENT_FOLDER, FileRefused, read_bounded
from kv_gym.leaderboard.finding import Finding
from kv_gym.leaderboard.luggage import MAX_AGENT_FILES, check_content, check_place
from kv_gym.leaderboard.play import BoardCell, board_cells, reference_digest, text_hash
from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.rerun import rerun_findings
from kv_gym.leaderboard.rules import protocol_differences, rules_of, trial_text
from kv_gym.leaderboard.submission import (
    ACTIONS,
    EPISODES,
    SUBMISSION,
    SUMS,
    SYSTEM,
    ReadSubmission,
    SubmittedEpisode,
    read_submission,
    summarise,
)
from kv_gym.llm.fingerprint import same_model

Level = Literal["schema", "arithmetic", "replay", "rerun"]
LEVELS: tuple[Level, ...] = ("schema", "arithmetic", "replay", "rerun")
FILES = (SUBMISSION, EPISODES, ACTIONS, SYSTEM, SUMS)
AHEAD = timedelta(days=1)  # a submission's date may be, for clocks differ
TOLERANCE = 1e-6
SAMPLE = 24


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        done: Levels that were looked at.
        findings: Reasons to refuse; none is fine.
        notes: What was done, for people.
        trial: Whether it is one, and no entry.
    """

    done: list[Level] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trial: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.findings

    def add(self, level: Level, findings: list[Finding], note: str) -> None:
        """Enter a level."""
        self.done.append(level)
        self.findings += findings
        self.notes.append(f"{level}: {note}")


def check_submission(
    folder: Path, protocol: Protocol, level: Level, progress: Progress, sample: int = SAMPLE, seed: int | None = None
) -> Verdict:
    """Check a submission up to a level; a level that finds something ends it.

    Args:
        folder: The submission.
        protocol: The board's.
        level: How far.
        progress: Told how far it is.
        sample: Episodes that are played again.
        seed: Draws them; None asks the operating system, so that nobody knows beforehand.
    """
    verdict = Verdict()
    try:
        found, actions = read_all(folder)
    except FileRefused as refused:
        verdict.add("schema", [Finding(refused.code, refused.detail)], "refused")
        return verdict
    verdict.add("schema", [], f"{len(found.episodes)} episodes, all files as they should be")
    verdict.trial = found.submission.trial
    if verdict.trial:
        verdict.notes.append(f"trial: {trial_text(found.submission)}, no leaderboard entry")
    if level == "schema":
        return verdict
    board, protocol = protocol, rules_of(found.submission, protocol)
    findings = list(_plan_findings(found, protocol, board))
    if not findings:
        cells = board_cells(protocol, progress)
        findings = list(arithmetic_findings(found, actions, cells))
    verdict.add("arithmetic", findings, f"{len(found.submission.cells)} cells computed again")
    if level == "arithmetic" or findings:
        return verdict
    seed = secrets.randbits(32) if seed is None else seed
    chosen = draw_sample(found.episodes, sample, seed)
    findings = list(replay_findings(chosen, actions, cells, progress))
    verdict.add("replay", findings, f"{len(chosen)} episodes played again from their actions (--seed {seed})")
    if level == "rerun" and not findings:
        findings, note = rerun_findings(found, protocol, cells, progress, seed)
        verdict.add("rerun", findings, note)
    return verdict


# --- schema ------------------------------------------------------------------------------------------------------


def read_all(folder: Path) -> tuple[ReadSubmission, dict[str, Tensor]]:
    """Read a submission, trusting nothing.

    Returns:
        (Its data, evicted slots by episode).

    Raises:
        FileRefused: With a code of the level `schema`.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise FileRefused("schema.missing-folder", f"{folder.name} is no folder.")
    names = _check_names(folder)
    _check_sums(folder, names)
    try:
        found = read_submission(folder)
    except ValidationError as error:
        raise _plain(error) from error
    if date.fromisoformat(found.submission.date) > (today := datetime.now(UTC).date()) + AHEAD:
        raise FileRefused("schema.date", f"date {found.submission.date} is to come; today is {today}.")
    if found.submission.folder != folder.resolve().name:
        raise FileRefused("schema.folder-name", f"the folder must be called {found.submission.folder}.")
    agent = found.submission.agent
    if (agent.kind == "installed") != (agent.file == "") or (agent.file and agent.file not in names):
        raise FileRefused("schema.agent-file", f"an agent of kind {agent.kind!r} with file {agent.file!r}.")
    for name in names:
        if name.startswith(f"{AGENT_FOLDER}/"):
            check_content(folder / name)
    return found, unpack_actions(read_bounded(folder / ACTIONS), ACTIONS)


def _check_names(folder: Path) -> list[str]:
    """Names of all files; only those of a submission may be there."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise FileRefused("schema.symlink", f"{name} is a link. Put the file itself there.")
        in_agent = name.startswith(f"{AGENT_FOLDER}/")
        if path.is_dir() and (in_agent or name == AGENT_FOLDER):
            continue
        if not path.is_file() or not (name in FILES or in_agent):
            raise FileRefused("schema.unknown-file", f"{name[:200]!r} is no part of a submission.")
        if in_agent:
            check_place(name.removeprefix(f"{AGENT_FOLDER}/"))
        names.append(name)
    missing = [name for name in FILES if name not in names]
    if missing:
        raise FileRefused("schema.missing-file", f"{', '.join(missing)} is missing.")
    if len(names) > len(FILES) + MAX_AGENT_FILES:
        raise FileRefused("schema.unknown-file", f"agent/ holds more than {MAX_AGENT_FILES} files.")
    return names


def _check_sums(folder: Path, names: list[str]) -> None:
    listed = {}
    for line in read_bounded(folder / SUMS).decode(errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (.{1,200})", line)
        if match is None:
            raise FileRefused("schema.sums-form", f"{SUMS}: {line[:100]!r} is no line of it.")
        if match[2].startswith("/") or ".." in Path(match[2]).parts:
            raise FileRefused("schema.path", f"{SUMS}: {match[2]!r} leaves the folder.")
        listed[match[2]] = match[1]
    there = {name for name in names if name != SUMS}
    if set(listed) != there:
        raise FileRefused("schema.sums-missing", f"{SUMS} and the folder differ in {sorted(set(listed) ^ there)}.")
    for name, digest in listed.items():
        if hashlib.sha256(read_bounded(folder / name)).hexdigest() != digest:
            raise FileRefused("schema.sums", f"{name} is not the file that {SUMS} lists.")


def _plain(error: ValidationError) -> FileRefused:
    first = error.errors()[0]
    code = {
        "extra_forbidden": "schema.unknown-key", "missing": "schema.missing-key", "date": "schema.date",
    }.get(first["type"], "schema.value")  # fmt: skip
    return FileRefused("schema.format" if first["loc"] == ("format",) else code, first_complaint(error))


# --- arithmetic --------------------------------------------------------------------------------------------------


def _plan_findings(found: ReadSubmission, protocol: Protocol, board: Protocol) -> Iterator[Finding]:
    """What can be said without the model.

    Args:
        found: The submission.
        protocol: What it should have played: the board's, or less of it for a trial.
        board: The board's.
    """
    submission = found.submission
    if submission.trial and protocol == board:
        yield Finding(
            "arithmetic.trial",
            "it says that it is a trial, but not what it played instead of the protocol (`reduced`). Make it again: "
            "kv-gym submit new ... --problems N.",
        )
    if submission.reduced and not submission.trial:
        yield Finding("arithmetic.trial", "`reduced` says that it is a trial, `trial` says that it is none.")
    differences = "; ".join(protocol_differences(found, protocol))
    if differences:
        yield Finding(
            "arithmetic.protocol",
            f"{differences}. Check it with the protocol it played (--protocol FILE), or make it again.",
        )
    twice = [key for key, n in Counter(row.key for row in found.episodes).items() if n > 1]
    if twice:
        yield Finding("arithmetic.duplicate-episode", f"{len(twice)} episodes are there twice, such as {twice[0]}.")
    again = {(cell.env_id, cell.budget): cell for cell in summarise(found.episodes)}
    stated = {(cell.env_id, cell.budget): cell for cell in submission.cells}
    if again.keys() != stated.keys() or len(stated) != len(submission.cells):
        yield Finding("arithmetic.cell-set", f"cells {sorted(stated)}; the rows make {sorted(again)}.")
        return
    for key, cell in stated.items():
        for name, value in cell.model_dump().items():
            if not _same(value, getattr(again[key], name)):
                yield Finding(
                    "arithmetic.aggregate", f"{key}: {name} is {value}, the rows give {getattr(again[key], name)}."
                )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= TOLERANCE
    return bool(one == other)


def arithmetic_findings(found: ReadSubmission, actions: dict[str, Tensor], cells: list[BoardCell]) -> Iterator[Finding]:
    """What must hold of the rows and the actions, given this machine's own full-cache generations."""
    submission = found.submission
    ours = {cell.config.model: cell.llm.fingerprint for cell in cells}
    theirs = submission.models
    if theirs.keys() != ours.keys() or not all(same_model(theirs[name], ours[name]) for name in ours):
        yield Finding("arithmetic.model", f"models {submission.models}; the board's are {ours}.")
        return
    if submission.references_sha256 != reference_digest(cells):
        yield Finding("arithmetic.references", "the full cache generated other texts there than here.")
    wanted = {cell.key(episode): (cell, episode) for cell in cells for episode in cell.wanted}
    rows = {row.key: row for row in found.episodes}
    if rows.keys() != wanted.keys():
        missing, extra = wanted.keys() - rows.keys(), rows.keys() - wanted.keys()
        example = sorted(missing or extra)[0]
        yield Finding("arithmetic.problem-set", f"{len(missing)} missing, {len(extra)} too many, such as {example}.")
        return
    evicting = {row.key for row in rows.values() if row.steps > 0}
    if actions.keys() != evicting:
        yield Finding(
            "arithmetic.actions-set", f"{len(actions.keys() ^ evicting)} episodes lack actions or have them twice."
        )
        return
    for key, row in rows.items():
        cell, episode = wanted[key]
        wrong = next(_row_findings(row, cell, episode, actions.get(key), submission.agent.evicts), None)
        if wrong is not None:
            yield Finding(wrong.code, f"{key}: {wrong.detail}")


def _row_findings(
    row: SubmittedEpisode, cell: BoardCell, episode: Episode, evicted: Tensor | None, evicts: bool
) -> Iterator[Finding]:
    """What is wrong with one episode."""
    config, reference = cell.config, episode.reference
    if row.family != episode.problem.family:
        yield Finding("arithmetic.family", f"family {row.family!r} is {episode.problem.family!r}.")
    if row.correct_full != reference.correct:
        yield Finding("arithmetic.full-cache", f"correct_full is {row.correct_full}, here {reference.correct}.")
    if episode.problem.graded == "answer" and row.correct not in (0, 1):
        yield Finding("arithmetic.score", f"score {row.correct} of an answer that is right or wrong.")
    if row.failed is not None:
        if row.correct or row.steps or row.tokens:
            yield Finding("arithmetic.failed", "a failed episode has a score, tokens or steps.")
        return
    if row.tokens > config.max_new_tokens or (row.stop == "length" and row.tokens != config.max_new_tokens):
        yield Finding("arithmetic.tokens", f"{row.tokens} tokens, stopped by {row.stop!r}.")
    if not evicts:
        if row.steps or row.tokens_sha256 != text_hash(reference) or row.correct != reference.correct:
            yield Finding("arithmetic.full-row", "an agent that never evicts writes what the full cache writes.")
        return
    if row.kv_slots_peak > config.slots or row.kv_slots_mean > row.kv_slots_peak:
        yield Finding("arithmetic.budget", f"{row.kv_slots_peak} slots at most; {config.slots} are allowed.")
    last = reference.n_prompt + row.tokens - 1  # place of the last token
    steps = -(-(last - config.slots) // config.evict_every)
    if row.steps != steps:
        yield Finding("arithmetic.steps", f"{row.steps} evictions; {row.tokens} tokens take {steps}.")
    elif evicted is not None:
        yield from _action_findings(row, cell, evicted)


def _action_findings(row: SubmittedEpisode, cell: BoardCell, evicted: Tensor) -> Iterator[Finding]:
    config, shape = cell.config, cell.llm.shape
    form = (row.steps, shape.n_layers, shape.n_kv_heads, config.evict_every)
    if tuple(evicted.shape) != form:
        yield Finding("arithmetic.actions-shape", f"actions {tuple(evicted.shape)}, not {form}.")
        return
    if bool((evicted < 0).any()) or bool((evicted >= config.slots).any()):
        yield Finding("arithmetic.actions-range", f"a slot that is none of the {config.slots}.")
        return
    if bool((evicted.diff(dim=-1) <= 0).any()):
        yield Finding("arithmetic.actions-order", "slots are not ascending, or there twice.")
        return
    if bool((evicted >= config.slots - config.recent).any()):
        yield Finding("arithmetic.protected", f"one of the newest {config.recent} slots was evicted.")
        return
    if actions_hash(evicted, config.slots) != row.actions_sha256:
        yield Finding("arithmetic.actions-hash", "the actions are not those of the row.")


# --- replay ------------------------------------------------------------------------------------------------------


def draw_sample(episodes: list[SubmittedEpisode], n: int, seed: int) -> list[SubmittedEpisode]:
    """Draw episodes that were played, the same number from each cell as far as possible."""
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, int], list[SubmittedEpisode]] = {}
    for row in episodes:
        if row.steps and row.failed is None:
            cells.setdefault((row.env_id, row.budget), []).append(row)
    shuffled = [[rows[i] for i in rng.permutation(len(rows))] for rows in cells.values()]
    turns = [
        row
        for place in range(max(map(len, shuffled), default=0))
        for rows in shuffled
        for row in rows[place : place + 1]
    ]
    return turns[:n]


def replay_findings(
    chosen: list[SubmittedEpisode], actions: dict[str, Tensor], cells: list[BoardCell], progress: Progress
) -> Iterator[Finding]:
    """Play episodes again from their actions; tokens, end and score must be the same."""
    progress.begin("replay", len(chosen))
    for cell in cells:
        rows = [row for row in chosen if (row.env_id, row.budget) == (cell.env_id, cell.config.budget)]
        if not rows:
            continue
        episodes = {(episode.problem.id, episode.seed): episode for episode in cell.wanted}
        played = [episodes[row.problem, row.seed] for row in rows]
        batch = replay(cell, played, [actions[row.key] for row in rows])
        for place, row in enumerate(rows):
            record = batch.record(place)
            for code, theirs, here in (
                ("replay.tokens", row.tokens_sha256, record.tokens_sha256),
                ("replay.stop", row.stop, record.stop),
                ("replay.correct", row.correct, record.undecided or record.correct),
            ):  # fmt: skip
                if theirs != here:
                    yield Finding(code, f"{row.key}: {theirs} was submitted, its actions lead to {here}.")
        progress.advance(len(rows))


def replay(cell: BoardCell, episodes: list[Episode], actions: list[Tensor]) -> EpisodeBatch:
    """Play episodes side by side by recorded evictions."""
    batch = EpisodeBatch(cell.llm, cell.config, len(episodes), statistics=())
    batch.reset(range(batch.n), [e.reference for e in episodes], [e.seed for e in episodes])
    device, step = cell.llm.shape.device, 0
    idle = torch.arange(cell.config.evict_every).expand(actions[0].shape[1:])
    while bool(batch.active.any()):
        gone = torch.stack([rows[step] if step < len(rows) else idle for rows in actions])
        batch.evict(others(gone, cell.config.slots).to(device))
        batch.write()
        step += 1
    return batch
