"""Loading an agent from nothing but its submission, here or in another process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from kv_gym.agents import AgentLike, load_agent
from kv_gym.identity import files_of
from kv_gym.leaderboard.files import AGENT_FOLDER
from kv_gym.leaderboard.luggage import is_packaged, local_modules, packages, unpacked_options
from kv_gym.leaderboard.submission import SubmissionError, SubmittedAgent

TIMEOUT = 300  # seconds
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


def check_alone(folder: Path, described: SubmittedAgent) -> None:
    """Load an agent from its submission in another process, in an empty working directory.

    Raises:
        SubmissionError: It cannot be loaded; says why, and what to do.
    """
    with TemporaryDirectory() as place:
        told = Path(place) / "told"
        command = [sys.executable, "-P", "-m", "kv_gym.leaderboard.alone", str(folder.resolve()), str(told)]
        found = {str(path.parent) for path in packages()}
        paths = {"PYTHONPATH": os.pathsep.join(sorted(found)), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            run = subprocess.run(
                command, input=described.model_dump_json().encode(), cwd=place, env=os.environ | paths,
                timeout=TIMEOUT, capture_output=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SubmissionError(
                f"the agent {described.name!r} was not loaded from its submission within {TIMEOUT} seconds. Do less in "
                "its __init__."
            ) from error
        # The exit status alone would not tell an agent that ends the process from one that was loaded.
        reason = told.read_text(encoding="utf-8") if told.exists() else run.stderr.decode(errors="replace")[-500:]
        if reason or not told.exists():
            raise SubmissionError(
                f"the agent {described.name!r} cannot be loaded from its submission alone: "
                f"{reason.strip() or 'it ended the process'}\n  {REMEDY}"
            )


def main() -> None:
    """In the other process: load the agent that standard input describes, and write down what is wrong.

    Arguments: the submission's folder, and the file to write; an empty one says that all is well.
    """
    folder, told = (Path(path) for path in sys.argv[1:])
    described, reason = SubmittedAgent.model_validate_json(sys.stdin.buffer.read()), ""
    try:
        build(folder, described)
    except Exception as error:  # whatever the agent raises
        reason = f"{type(error).__name__}: {error}"[:2000].removesuffix(REMEDY)
    told.write_text(reason, encoding="utf-8", errors="replace")


if __name__ == "__main__":
    main()
