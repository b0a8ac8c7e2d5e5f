"""Kill commands at random times, start them again until they finish, and compare with runs that nobody killed.

    python tests/kills.py --kills 50 --seed 0
    python tests/kills.py --kills 5 --only bench --only grpo --minutes 8

Prints a Markdown table, and exits with 1 if anything was lost, doubled or different, or a command failed. Every second
kill waits from its random time on for the next change of a file, so that it falls into or next to a write. Times count
from the first change of a file, so that kills hit work and not imports, and are CPU seconds of the command (Linux).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-m", "kv_gym.commands.main"]
TIMES = ("seconds", "scoring_seconds", "tokens_per_second", "run_id", "scoring_share")  # differ from run to run
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds between two changes of a CPU time
POLL = 0.0005  # seconds between two looks at a folder
MORE = 0.15  # of the work: how far after its expected end a kill may come
HEAD = "| command | kills | finished runs | lost | doubled | differing | tracebacks |\n|---|---|---|---|---|---|---|"

Row = dict[str, Any]
Files = list[tuple[str, int, int]]  # name, bytes, time of the last change in ns


class Kind(ABC):
    """A command, and what it leaves in its folder.

    Attributes:
        name: For tables and `--only`.
        tolerance: Relative, of numbers that hang on which episodes were played side by side.
    """

    name: str
    tolerance = 0.0

    @abstractmethod
    def arguments(self, folder: Path) -> list[str]:
        """What is typed after `kv-gym`."""

    @abstractmethod
    def rows(self, folder: Path) -> list[Row]:
        """Whole rows that are there, in order, even if the command has not finished."""

    @abstractmethod
    def key(self, row: Row) -> tuple[Any, ...]:
        """What must be there exactly once."""

    @abstractmethod
    def share(self, folder: Path, n_rows: int) -> float:
        """How much of the work is done, 0 to 1; the whole has `n_rows` rows."""

    def rest(self, folder: Path) -> Row:
        """What else a finished run made, without times and paths."""
        return {}

    def has_finished(self, folder: Path) -> bool:
        """Whether a kill came so late that everything is there, and the command may refuse to do it again."""
        return False


class Bench(Kind):
    """`kv-gym bench`: two agents, two budgets, both modes."""

    name = "bench"
    tolerance = 1e-6

    def arguments(self, folder: Path) -> list[str]:
        plan = "bench KVEvict-AIME-v0 --agent rkv --agent h2o --problems 6 --budget 64 --budget 96 --width 6 --no-plot"
        return [*plan.split(), "--mode", "both", "--out", str(folder)]

    def rows(self, folder: Path) -> list[Row]:
        return [row for row in whole_lines(folder / "rows.jsonl") if row["kind"] == "episode"]

    def key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("agent", "budget", "mode", "problem", "seed"))

    def share(self, folder: Path, n_rows: int) -> float:
        return len(self.rows(folder)) / n_rows

    def rest(self, folder: Path) -> Row:
        return {"report": "cells" in json.loads((folder / "report.json").read_text())}


class Apart(Bench):
    """The same by two workers under Ray; what is killed is the process that keeps the rows."""

    name = "bench-workers"

    def arguments(self, folder: Path) -> list[str]:
        """As the other, in chunks of its own."""
        return [*super().arguments(folder), "--workers", "2"]


class Submit(Kind):
    """`kv-gym submit new`: a trial of a few problems."""

    name = "submit"

    def arguments(self, folder: Path) -> list[str]:
        plan = "submit new rkv --author me --problems 6 --budget 64 --budget 96"
        return [*plan.split(), "--out", str(folder)]

    def rows(self, folder: Path) -> list[Row]:
        made = self._made(folder)
        if made is None:
            return [line["row"] for line in whole_lines(folder / ".rkv.partial.jsonl")[1:]]
        return [json.loads(line) for line in gzip.decompress((made / "episodes.jsonl.gz").read_bytes()).splitlines()]

    def key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("env_id", "budget", "problem", "seed"))

    def share(self, folder: Path, n_rows: int) -> float:
        return len(self.rows(folder)) / n_rows

    def rest(self, folder: Path) -> Row:
        made = self._made(folder)
        assert made is not None
        said = json.loads((made / "submission.json").read_text())
        cells = [without_times(cell) for cell in said.pop("cells")]
        sums = dict(reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text().splitlines())
        hashes = {path.name: digest(path) for path in made.iterdir() if path.is_file() and path.name != "SHA256SUMS"}
        return {
            "submission": {name: value for name, value in said.items() if name not in ("command", "date")},
            "cells": cells, "actions": hashes["actions.safetensors.xz"], "system": hashes["system.json"],
            "sums": sums == hashes, "beside": sorted(p.name for p in folder.iterdir() if p != made),
        }  # fmt: skip

    def has_finished(self, folder: Path) -> bool:
        return self._made(folder) is not None

    def _made(self, folder: Path) -> Path | None:
        return next(folder.glob("[0-9]*_rkv"), None)


class Train(Kind):
    """`kv-gym train NAME` with little work.

    Args:
        name: Of the training.
        knobs: KEY=VALUE, and so on.
        counter: What the state calls the steps that are done.
        steps: How many there are.
    """

    def __init__(self, name: str, knobs: str, counter: str, steps: int) -> None:
        self.name, self.counter, self.steps = name, counter, steps
        self.knobs = f"{knobs} {counter}s={steps} budgets=[128] n_train=8 n_validation=2".split()
        self.few_evictions = ["--env-set", "evict_every=64", "--env-set", "n_recent=32"]  # a step is then fast

    def arguments(self, folder: Path) -> list[str]:
        files = ["--work", str(folder), "--out", str(folder / "made.safetensors")]
        return [
            "train",
            self.name,
            *files,
            *self.few_evictions,
            *(word for knob in self.knobs for word in ("--set", knob)),
        ]

    def rows(self, folder: Path) -> list[Row]:
        return whole_lines(folder / "log.jsonl")

    def key(self, row: Row) -> tuple[Any, ...]:
        return (row["step"],)

    def share(self, folder: Path, n_rows: int) -> float:
        path = folder / "state.pt"
        return torch.load(path, weights_only=True)["state"][self.counter] / self.steps if path.exists() else 0.0

    def rest(self, folder: Path) -> Row:
        said = json.loads((folder / "made.json").read_text())
        del said["command"]
        said["curve"] = [without_times(row) for row in said["curve"]]
        state = torch.load(folder / "state.pt", weights_only=True)
        logged = [without_times(row) for row in state["log"]]
        scorer = {name: digest_of(tensor) for name, tensor in state["state"]["scorer"].items()}
        return said | {"weights": digest(folder / "made.safetensors"), "state's log": logged, "state's scorer": scorer}


KINDS: list[Kind] = [
    Bench(),
    Train("grpo", "problems=1 group=2 minibatches=2", "iteration", 40),
    Train("distill", "width=1 rows=1 updates=1 golden_rounds=40", "round", 80),
    Apart(),
    Submit(),
]


def whole_lines(path: Path) -> list[Row]:
    """JSON values of the lines that end; none where there is no file."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def without_times(row: Row) -> Row:
    """What two runs must agree on."""
    return {name: value for name, value in row.items() if name not in TIMES}


def digest(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of(tensor: torch.Tensor) -> str:
    """Hash of a tensor's bits."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def look(folder: Path) -> Files:
    """Names, sizes and times of all files; a folder that changes meanwhile may show less."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                known = os.stat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            found.append((name, known.st_size, known.st_mtime_ns))
    return found


def wait_for_change(process: subprocess.Popen[bytes], folder: Path, before: Files) -> None:
    """Return when a file of the folder is another than `before`, or the process has ended."""
    while process.poll() is None and look(folder) == before:
        time.sleep(POLL)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of a process that was not waited for: hangs less on what else the machine does than wall time."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def wait_for_work(process: subprocess.Popen[bytes], seconds: float) -> float:
    """Return when a process has worked so long or has ended, with the CPU seconds it took."""
    spent, began = 0.0, None
    while process.poll() is None and spent < seconds:
        now = cpu_seconds(process)
        began = now if began is None else began
        spent = now - began
        time.sleep(TICK)
    return spent


def names_in(folder: Path) -> set[str]:
    """Names of all files."""
    return {name for name, _, _ in look(folder)}


@dataclass
class Reference:
    """What a run that nobody killed made, and how long it took.

    Attributes:
        startup: Seconds until the first file.
        work: CPU seconds from then to the end.
        rows: By key, without times.
        rest: What else it made.
        files: Names of its files.
    """

    startup: float
    work: float
    rows: dict[tuple[Any, ...], Row]
    rest: Row
    files: set[str]


@dataclass
class Tally:
    """A line of the table.

    Attributes:
        said: Explains its numbers.
        notes: What is no fault, and how often it was seen.
    """

    name: str
    kills: int = 0
    finished: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    tracebacks: int = 0
    said: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.differing or self.tracebacks)

    def __str__(self) -> str:
        numbers = (self.kills, self.finished, self.lost, self.doubled, self.differing, self.tracebacks)
        return f"| {self.name} | {' | '.join(map(str, numbers))} |"


class Series:
    """Kills of one command.

    Args:
        kind: The command.
        base: Where its folders are made.
        draw: Gives the times.
    """

    def __init__(self, kind: Kind, base: Path, draw: random.Random) -> None:
        self.kind, self.base, self.draw = kind, base, draw
        self.tally = Tally(kind.name)
        self.reference = self._refer()

    def _refer(self) -> Reference:
        """Run twice: the first run fills the cache of full-cache texts, which must not count as time of work."""
        for name in ("warm", "reference"):
            folder, started = self.base / name, time.monotonic()
            process = self._start(folder)
            wait_for_change(process, folder, look(folder))
            startup = time.monotonic() - started
            work = wait_for_work(process, math.inf)
            if process.wait():
                raise SystemExit(f"{self.kind.name} fails without a kill: see {self._stderr(folder)}")
        rows = {self.kind.key(row): without_times(row) for row in self.kind.rows(folder)}
        return Reference(startup, work, rows, self.kind.rest(folder), names_in(folder))

    def _stderr(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.stderr")

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "agents")])
        # one thread: sums of floats are then the same in every run
        ours = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "KV_GYM_CACHE": str(self.base / "cache")}
        with self._stderr(folder).open("wb") as stderr:
            command = [*PROGRAM, *self.kind.arguments(folder)]
            return subprocess.Popen(command, env=os.environ | ours, stdout=subprocess.DEVNULL, stderr=stderr)

    def run(self, kills: int, deadline: float) -> Tally:
        """Kill so often, or until the deadline; the last run finishes."""
        number = 0
        while self.tally.kills < kills and time.monotonic() < deadline:
            number += 1
            self._run_one(self.base / f"run{number}", kills, deadline)
        return self.tally

    def _run_one(self, folder: Path, kills: int, deadline: float) -> None:
        """Start one run again and again until it finishes, and check it."""
        rows: list[Row] = []
        while True:
            enough = self.tally.kills >= kills or time.monotonic() > deadline
            before = look(folder)
            process = self._start(folder)
            killed = not enough and self._kill(process, folder, before)
            code = process.wait()
            rows = self._check_kept(folder, rows)
            if not killed or code >= 0:  # it ended before the signal came
                break
            self.tally.kills += 1
        if self._ended_well(folder, code):
            self.tally.finished += 1
            self._check(folder)
            if self.tally.is_clean:
                shutil.rmtree(folder)  # states of trainings are large

    def _kill(self, process: subprocess.Popen[bytes], folder: Path, before: Files) -> bool:
        """Kill at a random time of the work that is left; False where the command ended before.

        Work begins when the lock is taken, which is a change even where the file of the lock is there already.
        """
        left = 1 - self.kind.share(folder, len(self.reference.rows)) if folder.exists() else 1.0
        work = self.draw.random() * self.reference.work * (left + MORE)
        aimed = self.draw.random() < 0.5
        wait_for_change(process, folder, before)
        wait_for_work(process, work)
        time.sleep(self.draw.random() * TICK)
        if aimed:
            wait_for_change(process, folder, look(folder))
        if process.poll() is not None:
            return False
        process.kill()
        return True

    def _ended_well(self, folder: Path, code: int) -> bool:
        said = self._stderr(folder).read_text(errors="replace")
        if code == 0 and "Traceback" not in said:
            return True
        if code == 2 and self.kind.has_finished(folder):
            self.tally.notes["finished, but killed before it could say so; started again, it refused"] += 1
            self.tally.said.append(f"{folder.name}: {said.strip()[-300:]}")
            return True
        self.tally.tracebacks += 1
        self.tally.said.append(f"{folder.name}: ended with {code}: {said[-2000:]}")
        return False

    def _check_kept(self, folder: Path, before: list[Row]) -> list[Row]:
        """Count rows that were whole before and are not there any more, times included; return those of now."""
        now = self.kind.rows(folder)
        for row in before:
            if row not in now:
                self._fault("lost", folder, f"{self.kind.key(row)} after a kill")
        return now

    def _check(self, folder: Path) -> None:
        """Compare a finished run with the reference."""
        rows, wanted = self.kind.rows(folder), self.reference.rows
        counts = Counter(self.kind.key(row) for row in rows)
        for key in wanted.keys() - counts.keys():
            self._fault("lost", folder, f"{key} at the end")
        for key, count in counts.items():
            if count > 1 or key not in wanted:
                self._fault("doubled", folder, f"{key} is there {count} times")
        for row in rows:
            key = self.kind.key(row)
            for where in self._different(without_times(row), wanted.get(key, {})):
                self._fault("differing", folder, f"{key}: {where}")
        for where in self._different(self.kind.rest(folder), self.reference.rest):
            self._fault("differing", folder, where)
        for name in names_in(folder) - self.reference.files:
            self.tally.notes["files left behind such as " + re.sub(r"[0-9]+", "N", name)] += 1

    def _different(self, found: Row, wanted: Row) -> Iterator[str]:
        """Say which values are others."""
        for name in sorted(found.keys() | wanted.keys()):
            mine, theirs = found.get(name), wanted.get(name)
            if mine == theirs:
                continue
            numbers = isinstance(mine, float) and isinstance(theirs, float)
            if numbers and math.isclose(mine, theirs, rel_tol=self.kind.tolerance):
                self.tally.notes["numbers with other last digits (sums over a batch)"] += 1
            else:
                yield f"{name} is {mine!r}, not {theirs!r}"

    def _fault(self, column: str, folder: Path, what: str) -> None:
        setattr(self.tally, column, getattr(self.tally, column) + 1)
        self.tally.said.append(f"{folder.name}: {column}: {what}")


def main() -> None:
    """Run the series that are asked for, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--only", action="append", choices=[kind.name for kind in KINDS], help="repeat for more")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which a command is not killed any more")
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    print(f"folders: {base}", file=sys.stderr)
    tallies = []
    for kind in KINDS:
        if asked.only and kind.name not in asked.only:
            continue
        (base / kind.name).mkdir()
        deadline = time.monotonic() + 60 * asked.minutes
        series = Series(kind, base / kind.name, random.Random(f"{asked.seed} {kind.name}"))
        tallies.append(series.run(asked.kills, deadline))
        print(f"{kind.name}: start {series.reference.startup:.1f} s, work {series.reference.work:.1f} s", flush=True)
        print("\n".join([HEAD, *map(str, tallies), *tallies[-1].said]), flush=True)
        print("\n".join(f"{number} x {what}" for what, number in tallies[-1].notes.items()), flush=True)
    raise SystemExit(any(not tally.is_clean for tally in tallies))


if __name__ == "__main__":
    main()
