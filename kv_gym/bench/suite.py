"""Several environments, one set of agents: ``kv-gym bench --suite NAME``. Resumes where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kv_gym.agents import AgentLike
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import AUTO, Bench, prepare
from kv_gym.bench.progress import Progress, Silent
from kv_gym.bench.report import Report, build_report
from kv_gym.bench.widths import find_widths
from kv_gym.bench.workers import Workers
from kv_gym.config import env_page
from kv_gym.errors import ConfigError, first_complaint, unknown_name
from kv_gym.files import ROWS_FILE
from kv_gym.llm.loading import load_llm

FILE = Path(__file__).parent / "suite.yaml"


class Suite(BaseModel):
    """What to run.

    Attributes:
        title: Heads the results page.
        parts: Environment id by the name its column gets.
        agents: As `--agent` takes them.
        budgets: Slots. Half of the mean length of the full-cache texts is added to each part.
        problems: The first so many of each part's test split.
        settings: Of all environments, on top of their pages.
        modes: `generate`, `replay` or both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    parts: dict[str, str]
    agents: list[str]
    budgets: list[int]
    problems: int
    settings: dict[str, Any] = {}
    modes: list[Literal["generate", "replay"]] = ["generate", "replay"]


@dataclass(frozen=True)
class Part:
    """What one environment of a suite gave.

    Attributes:
        report: Its numbers.
        half: Half of the mean length of its full-cache texts, rounded to whole windows: a budget of the report, slots.
    """

    report: Report
    half: int


def load_suite(name_or_path: str) -> Suite:
    """Read a suite by name, or from a YAML file of your own with the same fields.

    Raises:
        UnknownNameError: There is no such suite.
        ConfigError: The file is missing or not a suite.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"suite {name_or_path!r}: there is no such file. Check the path.")
        found = yaml.safe_load(path.read_text())
    else:
        known = yaml.safe_load(FILE.read_text())
        if name_or_path not in known:
            raise unknown_name("suite", name_or_path, known, fix="Or give a YAML file of your own.")
        found = known[name_or_path]
    try:
        suite = Suite.model_validate(found)
    except ValidationError as error:
        raise ConfigError(
            f"suite {name_or_path!r}: {first_complaint(error)}. See {FILE.name} for the fields."
        ) from error
    for env_id in suite.parts.values():
        env_page(env_id)
    return suite


def run_suite(
    suite: Suite, build: Callable[[str], AgentLike], folder: Path, width: int | Literal["auto"] = AUTO,
    progress: Progress | None = None, workers: Workers | None = None,
) -> dict[str, Part]:  # fmt: skip
    """Run every part into ``folder/<part>/rows.jsonl``.

    Args:
        suite: What to run.
        build: Makes an agent from its text.
        folder: Where the parts go; what is there is not run again.
        width: Episodes side by side, as `Bench` takes it.
        progress: Told how far it is.
        workers: Who plays; by default this process does.

    Raises:
        KVGymError: As `run_bench`.
    """
    progress, parts = progress or Silent(), {}

    def bench(env_id: str, budgets: list[int]) -> Bench:
        agents = [build(text) for text in suite.agents]  # as they are before they see a model
        return Bench(env_id, agents, budgets, suite.problems, modes=suite.modes, width=width, options=suite.settings)

    for name, env_id in suite.parts.items():
        half = half_length(bench(env_id, suite.budgets), progress)
        plan = bench(env_id, sorted({*suite.budgets, half}))
        result = run_bench(plan, folder / name / ROWS_FILE, progress, workers)
        parts[name] = Part(build_report(result.rows, result.runs), half)
    return parts


def half_length(bench: Bench, progress: Progress) -> int:
    """Half of the mean length of the full-cache texts, prompt included, in whole windows."""
    config = bench.config(bench.budgets[0], "generate")
    width = find_widths(bench.width, [config], bench.agents).references
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    lengths = [len(episode.reference) for episode in prepare(llm, config, bench.seeds, width, progress)]
    windows = sum(lengths) / len(lengths) / 2 / config.evict_every
    return max(1, round(windows)) * config.evict_every
