"""Loading an agent from nothing but its submission, here or in another process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kv_gym.agents import AgentLike, load_agent, queries_of
from kv_gym.bench.guard import Guard, prepare_watched
from kv_gym.bench.play import AgentFailure, decide
from kv_gym.config import EnvConfig
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.identity import files_of
from kv_gym.leaderboard.files import AGENT_FOLDER
from kv_gym.leaderboard.luggage import is_packaged, local_modules, packages, unpacked_options
from kv_gym.leaderboard.play import BoardCell
from kv_gym.leaderboard.submission import SubmissionError, SubmittedAgent
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import Problem

TIMEOUT = 600  # seconds
REMEDY = (
    "An agent reads its files in __init__: from beside its own file (Path(__file__).parent), by a path relative to the "
    "working directory, or by an option (NAME,OPTION=PATH). Its method files() names all of them. It imports installed "
    "packages and what lies beside it."
)


def build(folder: Path, described: SubmittedAgent) -> AgentLike:
    """Load a submitted agent from its folder, or the installed one; the working directory is `agent/` meanwhile.

    Raises:
        SubmissionError: It reads or imports something that is not in the folder, or has another name.
        KVGymError: It cannot be built.
    """
    folder = folder.resolve()
    options, source = unpacked_options(dict(described.options), folder), None
    if described.kind == "checkpoint":
        options["checkpoint"] = str(folder / described.file)
    if described.kind == "file":
        source = folder / described.file
    _forget_others(folder)
    with _working_in(folder / AGENT_FOLDER):
        agent = load_agent(f"{source}:{described.class_name}" if source else described.class_name, **options)
        used = [path.resolve() for path in files_of(agent)]
    used += local_modules(source).values() if source else []
    strange = [str(path) for path in used if not path.resolve().is_relative_to(folder) and not is_packaged(path)]
    if strange:
        raise SubmissionError(f"the submission lacks {', '.join(strange)}. {REMEDY}")
    if agent.name != described.name:
        raise SubmissionError(
            f"the agent {described.name!r} calls itself {agent.name!r} here. Take a name from no path."
        )
    return agent


def _forget_others(folder: Path) -> None:
    """Let imports find the submission's modules, also where the ones that they were copied from are loaded."""
    agent = folder / AGENT_FOLDER
    tops = {path.relative_to(agent).with_suffix("").parts[0] for path in agent.rglob("*.py")} - {"__main__"}
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}
    files = {
        name: getattr(one, "__file__", None) or [*getattr(one, "__path__", []), ""][0] for name, one in loaded.items()
    }
    for name, file in files.items():
        if file and not Path(file).resolve().is_relative_to(folder) and not is_packaged(Path(file)):
            del sys.modules[name]


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Work in a folder and leave no compiled modules there; an agent without files has none."""
    with contextlib.chdir(folder if folder.is_dir() else "."):
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            yield
        finally:
            sys.dont_write_bytecode = before


@dataclass(frozen=True)
class Trial:
    """One decision that an agent made here, and that it makes again where it is alone.

    Attributes:
        config: Settings of the env.
        problem, seed: The episode; the decision is its first.
        evicted: Slots that went, [L, H_kv, evict_every]; None where the agent raised.
    """

    config: EnvConfig
    problem: Problem
    seed: int
    evicted: Any

    @staticmethod
    def of(cells: Sequence[BoardCell], agent: AgentLike) -> Trial | None:
        """The first decision of the first episode; None for an agent that makes none."""
        for cell in cells if agent.evicts else ():
            for episode in cell.wanted:
                try:
                    evicted = first_eviction(cell.llm, cell.config, agent, episode.reference, episode.seed)
                except AgentFailure:
                    evicted = None
                return Trial(cell.config, episode.problem, episode.seed, evicted)
        return None

    def asked(self) -> dict[str, Any]:
        """What the other process is told; a model in a folder is found from everywhere."""
        config = self.config.model_dump(mode="json")
        if Path(self.config.model).exists():
            config["model"] = str(Path(self.config.model).resolve())
        return {"config": config, "problem": asdict(self.problem), "seed": self.seed}


def first_eviction(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, reference: Reference, seed: int) -> Any:
    """Let an agent make the first decision of an episode.

    Returns:
        Slots that went, [L, H_kv, evict_every] as lists.

    Raises:
        AgentFailure: It raised.
    """
    batch = EpisodeBatch(
        llm, config, 1, statistics=agent.needs, hindsight=agent.uses_hindsight, evictions=True,
        queries=queries_of(agent),
    )  # fmt: skip
    batch.reset([0], [reference], [seed])
    decide(batch, agent, Guard(batch))
    return batch.records.evicted(0)[0].tolist()


def check_alone(folder: Path, described: SubmittedAgent, trial: Trial | None = None) -> None:
    """Load an agent from its submission in another process, in an empty working directory, and let it decide once.

    Args:
        folder: The submission.
        described: What it says of the agent.
        trial: What the agent chose here; the model is loaded a second time to compare. None compares nothing.

    Raises:
        SubmissionError: It cannot be loaded, fails or chooses otherwise; says why, and what to do.
    """
    who = f"the agent {described.name!r}"
    told = _ask(folder, described, trial, who)
    if told["reason"]:
        raise SubmissionError(f"{who} cannot be loaded from its submission alone: {told['reason'].strip()}\n  {REMEDY}")
    if trial is None or trial.evicted is None:
        return
    if told["failed"]:
        raise SubmissionError(f"{who} fails when it is loaded from its submission alone: {told['failed']}\n  {REMEDY}")
    if told["evicted"] != trial.evicted:
        raise SubmissionError(
            f"{who} evicts other slots when it is loaded from its submission alone. Draw with slots.seeds and "
            f"slots.decision only.\n  {REMEDY}"
        )


def _ask(folder: Path, described: SubmittedAgent, trial: Trial | None, who: str) -> dict[str, Any]:
    """Run `main` in another process; return what it wrote down."""
    asked = {
        "agent": described.model_dump(mode="json"), "trial": None if trial is None else trial.asked(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    with TemporaryDirectory() as place:
        told = Path(place) / "told"
        command = [sys.executable, "-P", "-m", "kv_gym.leaderboard.alone", str(folder.resolve()), str(told)]
        found = {str(path.parent) for path in packages()}
        variables = {"PYTHONPATH": os.pathsep.join(sorted(found)), "PYTHONDONTWRITEBYTECODE": "1"}
        if cache := os.environ.get("KV_GYM_CACHE"):
            variables["KV_GYM_CACHE"] = str(Path(cache).resolve())
        try:
            run = subprocess.run(
                command, input=json.dumps(asked).encode(), cwd=place, env=os.environ | variables, timeout=TIMEOUT,
                capture_output=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SubmissionError(
                f"{who} was not loaded from its submission, and made no decision, within {TIMEOUT} seconds. Do less in "
                "its __init__."
            ) from error
        # The exit status alone would not tell an agent that ends the process from one that was loaded.
        if told.exists():
            return dict(json.loads(told.read_bytes()))
        return {"reason": run.stderr.decode(errors="replace")[-500:] or "it ended the process"}


def main() -> None:
    """In the other process: do what standard input asks, and write down what came of it.

    Arguments: the submission's folder, and the file to write.
    """
    folder, path = (Path(argument) for argument in sys.argv[1:])
    asked = json.loads(sys.stdin.buffer.read())
    torch.set_num_threads(asked["threads"])
    told: dict[str, Any] = {"reason": "", "failed": "", "evicted": None}
    try:
        agent = build(folder, SubmittedAgent.model_validate(asked["agent"]))
        if asked["trial"]:
            told["evicted"] = _decide_again(agent, **asked["trial"])
    except AgentFailure as failure:
        told["failed"] = failure.reason
    except Exception as error:  # whatever the agent raises
        told["reason"] = f"{type(error).__name__}: {error}"[:2000].removesuffix(REMEDY)
    path.write_text(json.dumps(told))


def _decide_again(agent: AgentLike, config: dict[str, Any], problem: dict[str, Any], seed: int) -> Any:
    """Make the decision of a `Trial` here."""
    env = EnvConfig.model_validate(config)
    llm = load_llm(env.model, env.revision, env.dtype, env.device)
    prepare_watched(llm, agent)
    [reference] = ReferenceStore(llm, env).get([Problem(**problem)], [seed])
    return first_eviction(llm, env, agent, reference, seed)


if __name__ == "__main__":
    main()
