"""Agents x budgets x problems -> rows. Resumable after a kill at any point.

A cell is one agent at one budget in one mode. Accuracy is measured in generate mode, where the frozen LLM writes
freely. Loss, loss spike and missed attention are measured in replay mode: an evicted LLM's own greedy tokens are cheap
for itself, so in generate mode its losses say nothing. Rows are written as episodes end (`kv_gym.bench.rows`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kv_gym.bench import provenance
from kv_gym.bench.guard import prepare_watched
from kv_gym.bench.plan import Bench, Cell, Episode, plays, prepare, result_settings
from kv_gym.bench.progress import Progress, Silent
from kv_gym.bench.rows import EpisodeRow, RowFile, RunRow, sha256_of
from kv_gym.bench.runner import Runner
from kv_gym.bench.texts import TextFile
from kv_gym.bench.widths import find_widths
from kv_gym.bench.workers import Crew, Workers, make_references
from kv_gym.config import EnvConfig
from kv_gym.identity import Identity, identity_of
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm, model_sizes

logger = logging.getLogger(__name__)


@dataclass
class BenchResult:
    """What a benchmark gave.

    Attributes:
        rows: Of this plan only, new and resumed, in the order of the plan.
        runs: The runs they come from.
        left_out: Problems that cannot be played, by budget.
        n_new: Rows made now.
    """

    rows: list[EpisodeRow]
    runs: list[RunRow]
    left_out: dict[int, list[str]]
    n_new: int


def run_bench(
    bench: Bench, path: Path, progress: Progress | None = None, workers: Workers | None = None
) -> BenchResult:
    """Run what the file at `path` does not hold yet, writing each row as its episode ends.

    Args:
        bench: What to run.
        path: The JSONL file of rows; made if it does not exist.
        progress: Told how far it is.
        workers: Who plays; by default this process does.

    Raises:
        ConfigError: A budget or option is not allowed, or memory does not suffice (`kv_gym.bench.widths`).
        KVGymError: An agent refuses the model (`prepare_agent`).
        RowFileError: The file is damaged or in use.
    """
    progress = progress or Silent()
    configs = {(budget, mode): bench.config(budget, mode) for budget in bench.budgets for mode in bench.modes}
    first = next(iter(configs.values()))
    with ExitStack() as stack:
        file = stack.enter_context(RowFile(path))
        texts = stack.enter_context(TextFile(path.parent)) if bench.texts else None
        if workers is not None:  # mistakes show before Ray is started
            model_sizes(first.model, first.revision, first.dtype, first.device)
        crew = None if workers is None else stack.enter_context(Crew(workers, first))
        if crew is None:
            widths, make = find_widths(bench.width, configs.values(), bench.agents), None
        else:
            crew.send(bench.agents)
            widths, make = crew.widths(bench.width, list(configs.values())), partial(make_references, crew, first)
        llm = load_llm(first.model, first.revision, first.dtype, first.device if crew is None else "cpu")
        for agent in bench.agents:
            prepare_watched(llm, agent)
        episodes = prepare(
            llm, first, bench.seeds, widths.references, progress, bench.problem_seeds, bench.shard, make
        )  # fmt: skip
        playable = {config: [e for e in episodes if plays(e.reference, config)] for config in configs.values()}
        left_out = {config.budget: _left_out(episodes, playable[config]) for config in configs.values()}
        identities = [identity_of(agent) for agent in bench.agents]
        warn_of_unnamed(identities)
        cells = [
            Cell(agent, identity, configs[budget, mode], playable[configs[budget, mode]])
            for budget in bench.budgets
            for agent, identity in zip(bench.agents, identities, strict=True)
            for mode in bench.modes
        ]
        run = describe_run(llm, bench, first, widths.playing, identities, left_out, path.parent, crew)
        runner = Runner(llm, bench, file, progress, run, texts, crew)
        runner.run(cells)
        found = file.rows
    rows = [found.episodes[key] for key in runner.keys]
    return BenchResult(rows, [found.runs[i] for i in dict.fromkeys(row.run_id for row in rows)], left_out, runner.n_new)


def warn_of_unnamed(identities: Sequence[Identity]) -> None:
    """Say of which agents no rows can be reused."""
    for identity in identities:
        if identity.unnamed:
            logger.warning(
                "%s cannot be told from other agents (%s), so its episodes are played again each time.",
                identity.where, identity.unnamed,
            )  # fmt: skip


def describe_run(
    llm: FrozenLLM, bench: Bench, config: EnvConfig, width: int, identities: Sequence[Identity],
    left_out: dict[int, list[str]], output: Path, crew: Crew | None = None,
) -> RunRow:  # fmt: skip
    """Write down what all rows of this run share."""
    settings = result_settings(config)
    plan = {
        "env_id": bench.env_id, "split": config.split, "agents": [agent.name for agent in bench.agents],
        "budgets": list(bench.budgets), "modes": list(bench.modes), "problems": bench.problems, "seeds": bench.seeds,
        "problem_seeds": [config.problem_seed + i for i in range(bench.problem_seeds)],
    }  # fmt: skip
    if crew is not None:
        plan["workers"] = crew.workers.n
    model = {"name": llm.name, "revision": config.revision, "dtype": config.dtype, "fingerprint": llm.fingerprint}
    return RunRow(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=provenance.command(),
        versions=provenance.versions(),
        git=provenance.git_state(output=output),
        hardware=provenance.hardware(llm.shape.device) if crew is None else dict(crew.about.hardware),
        threads=torch.get_num_threads() if crew is None else crew.workers.own_threads,
        width=width,
        model=model,
        settings=settings,
        settings_sha256=sha256_of(settings),
        plan=plan,
        agents=described(identities),
        left_out=left_out,
    ).signed()


def described(identities: Sequence[Identity]) -> dict[str, dict[str, Any]]:
    """What a run line says of agents, by their hashes."""
    return {i.sha256: {"where": i.where, "parts": i.parts, "unnamed": i.unnamed} for i in identities}


def _left_out(episodes: Sequence[Episode], played: Sequence[Episode]) -> list[str]:
    """Problems without any episode that is played."""
    there = {episode.problem.id for episode in played}
    return [problem for problem in dict.fromkeys(episode.problem.id for episode in episodes) if problem not in there]
