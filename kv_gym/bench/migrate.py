"""Give stored rows the hashes of this version, where playing a sample of them again shows that nothing moved.

What a row is known by (`EpisodeRow.key`) covers more from version to version, and an agent's hash changes with every
edit of its file, also of a comment. Rows that are known by something else are never reused, so without this command
every number would be made again. A cell (agent, budget, mode) is carried over when all episodes of its sample come
out as they are written down: the same tokens, the same evictions, the same score. Others stay as they are, and
`kv-gym bench` plays them again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kv_gym.agents import AgentLike
from kv_gym.bench import provenance
from kv_gym.bench.benchmark import described
from kv_gym.bench.guard import ModelTouched, prepare_watched
from kv_gym.bench.plan import Episode, config_of, prepare
from kv_gym.bench.play import Failed, play
from kv_gym.bench.progress import Progress
from kv_gym.bench.report import newest_rows
from kv_gym.bench.rows import EpisodeRow, RowFileError, RowKey, Rows, RunRow, packed, read_rows, sha256_of
from kv_gym.bench.runner import RECORDED, known_by
from kv_gym.bench.texts import rename_texts, text_key
from kv_gym.config import EnvConfig
from kv_gym.engine.records import EpisodeRecord, full_cache_record
from kv_gym.errors import ConfigError, KVGymError
from kv_gym.files import lock, write_whole
from kv_gym.identity import Identity, identity_of
from kv_gym.llm.fingerprint import same_model
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.llm.tokens import way_to_read

CLOSE = 1e-4
"""Measured columns may differ by so much: their last digits depend on how many episodes were played side by side."""


@dataclass(frozen=True)
class MigratedCell:
    """What became of the rows of one agent at one budget in one mode.

    Attributes:
        agent, budget, mode: Which.
        n_rows: Rows that did not have the hashes of this version.
        n_sampled: Of them, played again.
        kept: Why they stay as they are; "" where they were carried over.
    """

    agent: str
    budget: int
    mode: str
    n_rows: int
    n_sampled: int
    kept: str = ""


def migrate(path: Path, agents: Sequence[AgentLike], sample: int, progress: Progress) -> list[MigratedCell]:
    """Carry the newest rows of a file over, and write it in one piece.

    Args:
        path: Rows, gzipped if its name ends with `.gz`.
        agents: Those of this version; rows belong to the agent with their name and class.
        sample: Episodes of a cell that are played again.
        progress: Told how far it is.

    Returns:
        Every cell that was looked at; none where all rows are of this version already.

    Raises:
        RowFileError: The file is damaged.
        ConfigError: The model, the settings or the libraries are not those of the rows.
        InUseError: Another process has the file open.
    """
    with lock(path, "the rows", "wait for it"):
        rows = read_rows(path)
        chosen = newest_rows(rows)
        if not chosen:
            raise RowFileError(f"{path} holds no episodes. There is nothing to migrate.")
        now = _Now(rows.runs, chosen, agents, progress, path.parent)
        cells = now.migrate(sample)
        if now.updated:
            texts = {text_key(rows.episodes[key]): text_key(row) for key, row in now.updated.items()}
            rename_texts(path.parent, texts, keep=True)
            write_whole(path, packed(now.put_into(rows), path))
            rename_texts(path.parent, texts, keep=False)
    return cells


class _Now:
    """What rows are known by in this version.

    Args:
        runs: All run lines of the file.
        chosen: Rows that belong together.
        agents: Those of this version.
        progress: Told how far it is.
        folder: Of the file.

    Attributes:
        updated: Rows as this version knows them, by the key that they had.
    """

    def __init__(
        self, runs: dict[str, RunRow], chosen: list[EpisodeRow], agents: Sequence[AgentLike], progress: Progress,
        folder: Path,
    ) -> None:  # fmt: skip
        self.runs = {row.run_id: runs[row.run_id] for row in chosen}
        self.rows, self.progress, self.folder = chosen, progress, folder
        last = runs[chosen[-1].run_id]
        self.first = config_of(last, chosen[-1])
        self.llm = _model_of(last, self.first)
        self.how = way_to_read(self.llm.shape.device, self.first.compile)
        self.computation = provenance.computation(self.llm.shape.dtype, self.llm.shape.device, self.how)
        self._check_computation()
        found = [(agent, identity_of(agent)) for agent in agents]
        meant = {row.agent_source: agent_now(row.agent_source, found) for row in chosen}
        agents = [now[0] for now in meant.values() if now is not None]
        self.refused = self._prepare(agents)
        named = {id(agent): (agent, identity_of(agent)) for agent in agents}  # anew: `prepare` may set what counts
        self.agents = {source: None if now is None else named[id(now[0])] for source, now in meant.items()}
        self.episodes = self._episodes()
        self.updated: dict[RowKey, EpisodeRow] = {}

    def _prepare(self, agents: Sequence[AgentLike]) -> dict[int, str]:
        """Show the model to agents; return why which of them (`id`) refuse it."""
        refused = {}
        for agent in agents:
            try:
                prepare_watched(self.llm, agent)
            except KVGymError as error:
                refused[id(agent)] = str(error)
        return refused

    def _check_computation(self) -> None:
        """Refuse rows that another kind of device or other libraries computed."""
        for run in self.runs.values():
            made = provenance.computation(self.llm.shape.dtype, self.llm.shape.device, self.how, run.versions)
            if made != self.computation:
                raise ConfigError(
                    f"the rows of {run.started} were computed by {made}; here it is {self.computation}. Migrate them "
                    "with the same libraries, or play them again."
                )

    def _episodes(self) -> dict[tuple[str, int], Episode]:
        """Problems of the rows with their references, as this version makes them."""
        found: dict[tuple[str, int], Episode] = {}
        for plan in {sha256_of(run.plan.get("problem_seeds")): run.plan for run in self.runs.values()}.values():
            first, *rest = plan.get("problem_seeds") or [self.first.problem_seed]
            most = max(run.plan["problems"] for run in self.runs.values())
            config = self.first.model_copy(update={"problem_seed": first, "n_problems": most})
            width = max(run.width for run in self.runs.values())
            for episode in prepare(self.llm, config, plan["seeds"], width, self.progress, 1 + len(rest)):
                found[episode.problem.id, episode.seed] = episode
        return found

    def migrate(self, sample: int) -> list[MigratedCell]:
        """Look at every cell, and carry over those whose sample comes out as it is written down."""
        cells: dict[tuple[str, str, int, str], list[EpisodeRow]] = {}
        for row in self.rows:
            cells.setdefault((row.agent, row.agent_source, row.budget, row.mode), []).append(row)
        self.progress.begin("cells", len(cells))
        found = []
        for (agent, source, budget, mode), rows in cells.items():
            self.progress.describe(f"{agent}, budget {budget}, {mode}")
            self.progress.advance(1)
            now = self.agents[source]
            kept, drawn = self._why_kept(rows, now), list[EpisodeRow]()
            if now is not None and not kept:
                rows = [row for row in rows if self._known_now(row, now).key != row.key]
                if not rows:
                    continue
                drawn = _draw(rows, sample)
                kept = self._differs(rows, drawn, now[0])
                if not kept:
                    self.updated |= {row.key: self._known_now(row, now) for row in rows}
            found.append(MigratedCell(agent, budget, mode, len(rows), len(drawn), kept))
        return found

    def _known_now(self, row: EpisodeRow, now: tuple[AgentLike, Identity]) -> EpisodeRow:
        """The same episode as this version knows it."""
        episode = self.episodes[row.problem, row.seed]
        return row.model_copy(update=known_by(*now, episode, self.llm, self.computation))

    def _why_kept(self, rows: Sequence[EpisodeRow], now: tuple[AgentLike, Identity] | None) -> str:
        """Why a cell cannot even be tried; "" if it can."""
        if now is None:
            return f"none of the agents is {rows[0].agent_source}; name it with --agent"
        if now[1].unnamed:
            return f"its agent cannot be named: {now[1].unnamed}"
        if id(now[0]) in self.refused:
            return self.refused[id(now[0])]
        for row in rows:
            episode = self.episodes.get((row.problem, row.seed))
            if episode is None:
                return f"problem {row.problem} is not there"
            if episode.reference.correct != row.correct_full:
                return f"the full cache scores {episode.reference.correct:g} on {row.problem}, not {row.correct_full:g}"
        return ""

    def _differs(self, rows: Sequence[EpisodeRow], drawn: Sequence[EpisodeRow], agent: AgentLike) -> str:
        """What came out otherwise when a sample was played again; "" if nothing did."""
        if not drawn:
            return "all of its episodes failed"
        mode = rows[0].mode
        config = self.first.model_copy(
            update={"budget": rows[0].budget, "mode": mode, "shadow": rows[0].measured("missed_attention") is not None}
        )
        wrong: list[str] = []
        for row, outcome in self._again(agent, config, drawn):
            if isinstance(outcome, Failed):
                return outcome.reason
            if not _same(row, outcome):
                wrong.append(row.problem)
        return f"{len(wrong)} of {len(drawn)} come out otherwise, such as {wrong[0]}" if wrong else ""

    def _again(
        self, agent: AgentLike, config: EnvConfig, drawn: Sequence[EpisodeRow]
    ) -> Iterator[tuple[EpisodeRow, EpisodeRecord | Failed]]:
        """Play episodes once more.

        Raises:
            ConfigError: The agent changed the model, so that nothing can be said of the agents after it.
        """
        stored = {(row.problem, row.seed): row for row in drawn}
        episodes = [self.episodes[key] for key in stored]
        if agent.evicts:
            try:
                for episode, outcome, _ in play(self.llm, config, agent, episodes, len(episodes)):
                    yield stored[episode.problem.id, episode.seed], outcome
            except ModelTouched as touched:
                raise ConfigError(f"agent {agent.name!r}: {touched} Nothing was migrated; leave it out.") from touched
        else:
            for episode in episodes:
                yield stored[episode.problem.id, episode.seed], full_cache_record(self.llm, config, episode.reference)

    def put_into(self, rows: Rows) -> list[RunRow | EpisodeRow]:
        """All lines of the file: new run lines say what was done, old ones stay as long as rows need them."""
        signed = {old: self._run_line(old) for old in {row.run_id for row in self.updated.values()}}
        lines: list[EpisodeRow] = []
        for key, row in rows.episodes.items():
            now = self.updated.get(key)
            lines.append(row if now is None else now.model_copy(update={"run_id": signed[row.run_id].run_id}))
        needed = dict.fromkeys(row.run_id for row in lines)
        known = rows.runs | {run.run_id: run for run in signed.values()}
        return [*(known[run] for run in needed), *lines]

    def _run_line(self, old: str) -> RunRow:
        run, made = self.runs[old], {row.agent_sha256 for row in self.updated.values() if row.run_id == old}
        migrated = {
            "from": old, "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": provenance.command(),
            "git": provenance.git_state(output=self.folder),
        }  # fmt: skip
        return run.model_copy(update={
            "run_id": "",
            "model": run.model | {"fingerprint": self.llm.fingerprint},
            "agents": described([now[1] for now in self.agents.values() if now is not None and now[1].sha256 in made]),
            "migrated": migrated,
        }).signed()  # fmt: skip


def agent_now(source: str, agents: Sequence[tuple[AgentLike, Identity]]) -> tuple[AgentLike, Identity] | None:
    """The agent of this version that rows with this source are of: its class, with all of its settings.

    Modules move, and newer versions may write down more settings; of several, the one with the fewest more.
    """
    kind, settings = _class_and_settings(source)
    fits = []
    for agent, identity in agents:
        other, others = _class_and_settings(identity.where)
        if other == kind and settings <= others:
            fits.append((len(others), agent, identity))
    fits.sort(key=lambda one: one[0])
    return fits[0][1:] if fits and (len(fits) == 1 or fits[0][0] < fits[1][0]) else None


def _class_and_settings(source: str) -> tuple[str, set[str]]:
    """`Streaming` and {`n_sink=4`} of `kv_agents.heuristics.streaming:Streaming(n_sink=4)`."""
    where, _, settings = source.partition("(")
    return where.rpartition(":")[2], {one for one in settings.removesuffix(")").split(", ") if one}


def _model_of(run: RunRow, config: EnvConfig) -> FrozenLLM:
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    if not same_model(str(run.model["fingerprint"]), llm.fingerprint):
        raise ConfigError(
            f"model {llm.name!r} is not the one that made these rows (fingerprint {llm.fingerprint[:12]}, theirs is "
            f"{str(run.model['fingerprint'])[:12]}). Play the rows again."
        )
    return llm


def _draw(rows: Sequence[EpisodeRow], sample: int) -> list[EpisodeRow]:
    """Some rows that went well; all where nothing has to be played."""
    well = [row for row in rows if row.failed is None]
    if not rows[0].evicts:
        return well
    return random.Random(0).sample(well, min(sample, len(well)))


def _same(row: EpisodeRow, record: EpisodeRecord) -> bool:
    """Whether an episode came out as it is written down."""
    if any(getattr(row, name) != getattr(record, name) for name in RECORDED):
        return False
    return all(_close(row.measured(name), value) for name, value in record.measured.items())


def _close(stored: float | None, value: float) -> bool:
    if stored is None or math.isnan(value):
        return stored is None and math.isnan(value)
    return math.isclose(stored, value, rel_tol=CLOSE, abs_tol=CLOSE)
