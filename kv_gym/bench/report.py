"""Rows -> the numbers of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from kv_gym.bench.intervals import Interval, difference_interval, mean_interval, proportion_interval, ratio_interval
from kv_gym.bench.labels import labels
from kv_gym.bench.rows import EpisodeRow, Rows, RunRow
from kv_gym.engine.measures import MEASURES, Measure
from kv_gym.errors import ConfigError


@dataclass(frozen=True)
class CellReport:
    """One agent at one budget.

    Attributes:
        agent: Label in tables (`kv_gym.bench.labels`).
        ranked: False for reference lines: the full cache, and agents that use hindsight.
        uses_hindsight: It knows the future.
        n_problems, n_episodes: What accuracy is measured on.
        n_failed: Episodes in which the agent raised or that could not be graded, all modes; they count as wrong and
            have no losses.
        failure: The first of them.
        accuracy: Share of right answers, in generate mode (in replay, where there is no other).
        full_accuracy: The same with the full cache, on the same episodes.
        retained: Accuracy over full-cache accuracy.
        cut_off: Share of the episodes that ended at max_new_tokens, generate; None where there are none.
        finished_accuracy: Accuracy among the others that did not fail.
        versus_best: Accuracy minus that of the best ranked agent at this budget, paired; None for the best.
        measures: Each of `kv_gym.engine.measures` by its name in reports.
        kv_bytes_peak, kv_bytes_mean: Mean over episodes.
        tokens_per_second: New tokens over time, generate.
        scoring_share: Share of that time that the agent took.
        families: Accuracy per family.
    """

    agent: str
    agent_source: str
    budget: int
    ranked: bool
    evicts: bool
    uses_hindsight: bool
    n_problems: int
    n_episodes: int
    n_failed: int
    failure: str | None
    accuracy: Interval | None
    full_accuracy: float | None
    retained: Interval | None
    cut_off: float | None
    finished_accuracy: Interval | None
    versus_best: Interval | None
    measures: dict[str, Interval | None]
    kv_bytes_peak: float | None
    kv_bytes_mean: float | None
    tokens_per_second: float | None
    scoring_share: float | None
    families: dict[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values; measures stand beside the other numbers."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat |= value if name == "measures" else {name: value}
        return flat


def check_keys() -> None:
    """Refuse a measure whose name in reports is that of another number of a cell.

    Raises:
        ConfigError: Names it.
    """
    for name in {measure.key for measure in MEASURES} & {field.name for field in fields(CellReport)}:
        raise ConfigError(f"a measure is called {name!r} in reports, as another number of a cell is. Rename it.")


check_keys()


@dataclass(frozen=True)
class Report:
    """A whole benchmark.

    Attributes:
        cells: Ranked agents first, best first; then the reference lines; budgets rising.
        accuracy_mode: Mode that accuracy is measured in.
        n_problems: Problems that were played at any budget.
        left_out: Problems that cannot be played, by budget.
        n_other: Rows of other settings, models or agent versions in the file, not used here.
        runs: Provenance of the rows.
    """

    env_id: str
    model: str
    split: str
    accuracy_mode: str
    budgets: list[int]
    n_problems: int
    n_seeds: int
    left_out: dict[int, list[str]]
    n_other: int
    cells: list[CellReport]
    runs: list[dict[str, Any]]

    @property
    def agents(self) -> list[str]:
        """Labels in the order of the tables."""
        return list(dict.fromkeys(cell.agent for cell in self.cells))

    def cell(self, agent: str, budget: int) -> CellReport | None:
        """Return one cell; None where the agent did not run."""
        return next((cell for cell in self.cells if (cell.agent, cell.budget) == (agent, budget)), None)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self) | {"cells": [cell.to_json() for cell in self.cells]}


def newest_rows(rows: Rows) -> list[EpisodeRow]:
    """Choose the rows that belong together: env, model and settings of the last one, newest version of each agent."""
    episodes = list(rows.episodes.values())
    if not episodes:
        return []

    def setting(row: EpisodeRow) -> tuple[str, ...]:
        return row.env_id, row.split, row.model_fingerprint, row.settings_sha256, row.computation, str(row.grading)

    together = [row for row in episodes if setting(row) == setting(episodes[-1])]
    version = {(row.agent, row.agent_source): row.agent_sha256 for row in together}
    newest = [row for row in together if version[row.agent, row.agent_source] == row.agent_sha256]
    return list({(r.agent, r.agent_source, r.mode, r.budget, r.problem, r.seed): r for r in newest}.values())


def build_report(episodes: Sequence[EpisodeRow], runs: Iterable[RunRow], n_other: int = 0) -> Report:
    """Sum rows up.

    Args:
        episodes: Rows that belong together (see `newest_rows`); at least one.
        runs: Runs, in order; those that made none of these rows are ignored.
        n_other: Rows that were left aside.
    """
    made = {row.run_id for row in episodes}
    runs = [run for run in runs if run.run_id in made]
    label = labels(episodes)
    cells: dict[tuple[str, int], list[EpisodeRow]] = {}
    for row in episodes:
        cells.setdefault((label[row.agent, row.agent_source], row.budget), []).append(row)
    mode = "generate" if any(row.mode == "generate" for row in episodes) else "replay"
    best = _best(cells, mode)
    reports = [_cell(name, rows, mode, best.get(budget)) for (name, budget), rows in cells.items()]
    first = episodes[0]
    return Report(
        env_id=first.env_id,
        model=first.model,
        split=first.split,
        accuracy_mode=mode,
        budgets=sorted({row.budget for row in episodes}),
        n_problems=len({row.problem for row in episodes}),
        n_seeds=len({row.seed for row in episodes}),
        left_out=_left_out(runs),
        n_other=n_other,
        cells=_ordered(reports),
        runs=[run.model_dump(mode="json") for run in runs],
    )


def _right(rows: Iterable[EpisodeRow], mode: str) -> dict[tuple[str, int], float]:
    """Score of each (problem, seed); 0 for failed episodes."""
    return {(row.problem, row.seed): row.correct or 0.0 for row in rows if row.mode == mode}


def is_ranked(row: EpisodeRow) -> bool:
    """Whether an agent is no reference line."""
    return row.evicts and not row.uses_hindsight


def _best(cells: dict[tuple[str, int], list[EpisodeRow]], mode: str) -> dict[int, list[EpisodeRow]]:
    """The rows of the most accurate ranked agent at each budget."""
    best: dict[int, tuple[float, list[EpisodeRow]]] = {}
    for (_, budget), rows in sorted(cells.items()):  # of equal ones, the first by name
        right = _right(rows, mode)
        if right and is_ranked(rows[0]):
            accuracy = math.fsum(right.values()) / len(right)
            if budget not in best or accuracy > best[budget][0]:
                best[budget] = accuracy, rows
    return {budget: rows for budget, (_, rows) in best.items()}


def _cell(name: str, rows: list[EpisodeRow], mode: str, best: list[EpisodeRow] | None) -> CellReport:
    answered = [row for row in rows if row.mode == mode]
    problems = [row.problem for row in answered]
    right, full = [row.correct or 0.0 for row in answered], [row.correct_full for row in answered]
    failed = [row for row in rows if row.failed]
    ended = [row for row in answered if row.mode == "generate" and row.stop is not None]
    finished = [row for row in ended if row.stop != "length"]
    return CellReport(
        agent=name,
        agent_source=rows[0].agent_source,
        budget=rows[0].budget,
        ranked=is_ranked(rows[0]),
        evicts=rows[0].evicts,
        uses_hindsight=rows[0].uses_hindsight,
        n_problems=len(set(problems)),
        n_episodes=len(answered),
        n_failed=len(failed),
        failure=failed[0].failed if failed else None,
        accuracy=proportion_interval(right, problems),
        full_accuracy=math.fsum(full) / len(full) if full else None,
        retained=_retained(right, full, problems),
        cut_off=1 - len(finished) / len(ended) if ended else None,
        finished_accuracy=proportion_interval([row.correct or 0.0 for row in finished], [r.problem for r in finished]),
        versus_best=_paired(rows, best, mode),
        measures={measure.key: average(rows, measure) for measure in MEASURES},
        kv_bytes_peak=_plain_mean(answered, "kv_bytes_peak"),
        kv_bytes_mean=_plain_mean(answered, "kv_bytes_mean"),
        tokens_per_second=_speed(row for row in answered if row.mode == "generate"),
        scoring_share=_scoring_share([row for row in answered if row.mode == "generate"]),
        families=_families(answered),
    )


def _retained(right: list[float], full: list[float], problems: list[str]) -> Interval | None:
    """Accuracy over full-cache accuracy; where nothing is right, the doubt is that of the accuracy."""
    if any(right) or not any(full):
        return ratio_interval(right, full, problems)
    accuracy = proportion_interval(right, problems)
    assert accuracy is not None
    return Interval(0.0, 0.0, accuracy.high * len(full) / math.fsum(full))


def _paired(rows: list[EpisodeRow], best: list[EpisodeRow] | None, mode: str) -> Interval | None:
    if best is None or best is rows:
        return None
    ours, theirs = _right(rows, mode), _right(best, mode)
    both = [episode for episode in ours if episode in theirs]
    return difference_interval([ours[e] for e in both], [theirs[e] for e in both], [problem for problem, _ in both])


def average(rows: Iterable[EpisodeRow], measure: Measure) -> Interval | None:
    """Mean of a measure over the episodes that have it, or its ratio to that of the full cache."""
    found = [([row.measured(name) for name in measure.columns], row.problem) for row in rows if row.mode == "replay"]
    known = [(values, problem) for values, problem in found if None not in values]
    problems = [problem for _, problem in known]
    columns = [[value for value in column if value is not None] for column in zip(*(v for v, _ in known), strict=True)]
    if measure.full is not None and columns:
        return ratio_interval(columns[0], columns[1], problems)
    return mean_interval(columns[0], problems) if columns else None


def _plain_mean(rows: Iterable[EpisodeRow], name: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return math.fsum(values) / len(values) if values else None


def _scoring_share(rows: Sequence[EpisodeRow]) -> float | None:
    timed = [(row.scoring_seconds, row.seconds) for row in rows if row.scoring_seconds is not None and row.seconds]
    return math.fsum(scoring for scoring, _ in timed) / math.fsum(seconds for _, seconds in timed) if timed else None


def _speed(rows: Iterable[EpisodeRow]) -> float | None:
    timed = [(row.seconds, row.tokens_per_second) for row in rows if row.seconds and row.tokens_per_second is not None]
    seconds = math.fsum(s for s, _ in timed)
    return math.fsum(s * speed for s, speed in timed if speed is not None) / seconds if seconds else None


def _families(rows: Sequence[EpisodeRow]) -> dict[str, Interval | None]:
    found: dict[str, list[EpisodeRow]] = {}
    for row in rows:
        found.setdefault(row.family, []).append(row)
    return {
        family: proportion_interval([row.correct or 0.0 for row in rows], [row.problem for row in rows])
        for family, rows in sorted(found.items())
    }


def _left_out(runs: Iterable[RunRow]) -> dict[int, list[str]]:
    """Problems that any of the runs could not play, by budget."""
    found: dict[int, set[str]] = {}
    for run in runs:
        for budget, problems in run.left_out.items():
            found.setdefault(budget, set()).update(problems)
    return {budget: sorted(problems) for budget, problems in found.items()}


def _ordered(cells: list[CellReport]) -> list[CellReport]:
    """Ranked agents by mean accuracy, then those with hindsight, then the full cache."""
    accuracy: dict[str, list[float]] = {}
    for cell in cells:
        accuracy.setdefault(cell.agent, []).append(cell.accuracy.value if cell.accuracy else 0.0)

    def place(cell: CellReport) -> tuple[bool, bool, float, str, int]:
        mean = math.fsum(accuracy[cell.agent]) / len(accuracy[cell.agent])
        return not cell.ranked, not cell.evicts, -mean, cell.agent, cell.budget

    return sorted(cells, key=place)
