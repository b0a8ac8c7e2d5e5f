"""Many processes or machines: what a benchmark plays, played by workers under Ray.

Each worker holds one model. The process that was started keeps the file of rows: it hands out chunks of episodes, and
writes what comes back as it comes. A worker that dies, or hangs, is replaced, and its chunk is played again; a chunk
that does so `TRIES` times, or takes longer than it may, has failed, and its rows say so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch

from kv_gym.agents import FILE_MODULE, AgentLike
from kv_gym.bench import provenance
from kv_gym.bench.guard import reason_of
from kv_gym.bench.plan import Episode, Wanted
from kv_gym.bench.play import Failed, Time
from kv_gym.bench.player import About, Played, Player, about, moved
from kv_gym.bench.widths import Widths
from kv_gym.config import EnvConfig
from kv_gym.engine.reference import Reference
from kv_gym.errors import ConfigError, KVGymError
from kv_gym.llm.frozen import FrozenLLM

TRIES = 3
"""Times that a chunk is handed out before it has failed."""
START_SECONDS = 900.0
"""Longest time until a worker has its model."""
KNOCK = 10.0  # seconds
LOOK_EVERY = 1.0  # seconds, after which chunks that take too long are looked for


@dataclass(frozen=True)
class Workers:
    """Where a benchmark is played, apart from the process that was started.

    Attributes:
        n: How many; each holds a model of its own, on a GPU one GPU.
        address: Of a Ray cluster that runs already, such as `auto`; None starts one here, for as long as it is needed.
        threads: Of torch, in each; None shares this machine's cores among those that run here, and is 1 on a cluster.
        chunk_seconds: Longest time of a chunk of episodes.
    """

    n: int
    address: str | None = None
    threads: int | None = None
    chunk_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.n < 1 or (self.threads is not None and self.threads < 1):
            raise ConfigError(f"{self.n} workers of {self.threads} threads are none. Use whole numbers from 1 on.")
        if not self.chunk_seconds > 0:
            raise ConfigError(f"chunk_seconds={self.chunk_seconds} is no time. Use seconds above 0.")

    @property
    def own_threads(self) -> int:
        """Threads of each."""
        here = 1 if self.address else max(1, (os.cpu_count() or 1) // self.n)
        return self.threads or here


@dataclass(frozen=True)
class Lost:
    """A chunk that no worker ended.

    Attributes:
        reason: Why.
    """

    reason: str

    def of_each(self, n: int) -> Played:
        """That of each of its `n` episodes."""
        return [(place, Failed(self.reason), Time()) for place in range(n)]


def own_paths() -> list[str]:
    """Where Python looks for modules, but for its own folders: what lies beside an agent's file is imported too."""
    places = [str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)]
    found = [path for path in sys.path if path]
    return [path for path in found if not any(Path(path).resolve().is_relative_to(place) for place in places)]


@dataclass(frozen=True)
class Task:
    """Something that a worker is asked for.

    Attributes:
        what: A method of `Player`.
        arguments: Its arguments.
        of: What it is for, by which the asker knows it.
    """

    what: Literal["widths", "references", "play", "call"]
    arguments: tuple[Any, ...]
    of: Any


@dataclass(frozen=True)
class _Busy:
    """A worker that does something.

    Attributes:
        place: Of its task; None where it starts.
        player: It.
        begun: When, `time.monotonic`.
    """

    place: int | None
    player: Any
    begun: float


class WorkerError(KVGymError):
    """Workers could not do what nothing goes on without."""


class Crew:
    """Workers at work; a context manager.

    Args:
        workers: How many, where.
        config: Names the model that each holds.
        llm: The model of this process, where that is used too: theirs must be the same.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or its machines differ.
    """

    def __init__(self, workers: Workers, config: EnvConfig, llm: FrozenLLM | None = None) -> None:
        self.workers, self.config, self.llm = workers, config, llm
        self._ray = _ray()
        self._players: list[Any] = []
        self.agents: list[Any] = []
        self._failed_starts = 0

    def __enter__(self) -> Crew:
        self._begin()
        try:
            self._players = [self._player() for _ in range(self.workers.n)]
            refs = [player.about.remote() for player in self._players]
            _, late = self._ray.wait(refs, num_returns=len(refs), timeout=START_SECONDS)
            if late:
                raise WorkerError(f"{len(late)} of {len(refs)} workers did not start in {START_SECONDS:g} seconds.")
            found: list[About] = self._ray.get(refs)
            self._check(found)
            self.about = found[0]
        except self._ray.exceptions.RayActorError as error:
            self._ray.shutdown()
            raise WorkerError(f"a worker could not be started: {_last_line(error)}") from error
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for player in self._players:
            self._ray.kill(player)
        self._ray.shutdown()

    def _begin(self) -> None:
        """Start Ray here, or find the cluster.

        Raises:
            ConfigError: Neither can be done, or it has too little for so many workers.
        """
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if self.workers.address is None:
            how |= {"num_cpus": self.workers.n, "include_dashboard": False}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of workers without a GPU
        ended_by = signal.getsignal(signal.SIGTERM)
        where = "here" if self.workers.address is None else f"at {self.workers.address!r}"
        try:
            _knock(self.workers.address or "")
            self._ray.init(self.workers.address or "local", **how)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"Ray cannot be used {where}: {str(error).splitlines()[0][:300]}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended_by)  # Ray puts its own there
        kind = "GPU" if self.config.device.startswith("cuda") else "CPU"
        there = int(self._ray.cluster_resources().get(kind, 0))
        if there < self.workers.n:
            self._ray.shutdown()
            raise ConfigError(
                f"--workers {self.workers.n}: each takes a {kind}, and {where} there are {there}. Ask for fewer."
            )

    def _player(self) -> Any:
        threads = self.workers.own_threads
        gpus = 1 if self.config.device.startswith("cuda") else 0
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(own_paths())}}
        kind = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, runtime_env=environment)(Player)
        return kind.remote(self.config, threads)

    def _check(self, found: Sequence[About]) -> None:
        """Refuse machines that would give other numbers than each other, or than this process."""
        here = replace(found[0], versions=provenance.versions())
        if self.llm is not None:
            here = replace(about(self.llm, self.config), versions=here.versions)
        for other in found:
            for name in ("versions", "fingerprint", "computation"):
                mine, theirs = getattr(here, name), getattr(other, name)
                if mine != theirs:
                    raise ConfigError(f"a worker's {name} are {theirs}, elsewhere they are {mine}. Make them alike.")

    def send(self, agents: Sequence[AgentLike]) -> None:
        """Send agents, once for all of their chunks, as they are before they see a model.

        Raises:
            ConfigError: One cannot be sent.
        """
        for agent in agents:
            try:
                with sent_by_value(agent):
                    self.agents.append(self._ray.put(agent))
            except Exception as error:  # whatever pickle thinks of what an agent holds
                raise ConfigError(
                    f"agent {agent.name!r} cannot be sent to workers: {reason_of(error)}. Make what cannot be sent in "
                    "`prepare`, or run it without workers."
                ) from error

    def widths(self, wanted: int | Literal["auto"], configs: Sequence[EnvConfig]) -> Widths:
        """Rows side by side in each worker, for all agents that were sent.

        Raises:
            KVGymError: As `find_widths`.
        """
        on_one = self.workers.n if self.config.device == "cpu" and self.workers.address is None else 1
        (_, found), *_ = self.do([Task("widths", (wanted, list(configs), on_one, *self.agents), None)])
        if isinstance(found, Lost):
            raise WorkerError(found.reason)
        return cast(Widths, found)

    def do(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Hand out tasks, and yield each with what came of it, as they end. Workers that died start anew meanwhile.

        Yields:
            (Task, what its method returned, or `Lost`).

        Raises:
            KVGymError: What a method raised.
        """
        waiting, tries = deque(range(len(tasks))), [0] * len(tasks)
        idle, busy = deque(self._players), dict[Any, _Busy]()
        while waiting or any(one.place is not None for one in busy.values()):
            while waiting and idle:
                place, player = waiting.popleft(), idle.popleft()
                tries[place] += 1
                ref = getattr(player, tasks[place].what).remote(*tasks[place].arguments)
                busy[ref] = _Busy(place, player, time.monotonic())
            for ref in self._ended(busy):
                one = busy.pop(ref)
                try:
                    found = self._ray.get(ref)
                except self._ray.exceptions.RayActorError as error:
                    self._start_anew(one.player, busy, None if one.place is not None else error)
                    if one.place is None:
                        continue
                    if tries[one.place] < TRIES:
                        waiting.append(one.place)
                        continue
                    found = Lost(f"WorkerDied: its process ended {TRIES} times while these episodes were played.")
                except self._ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, KVGymError | MemoryError):
                        raise WorkerError(f"a worker failed: {reason_of(error.cause)}") from error
                    raise error.cause from error  # as it was raised there
                else:
                    idle.append(one.player)
                if one.place is None:
                    self._check([self.about, found])
                else:
                    yield tasks[one.place], found
            yield from self._give_up(tasks, busy)

    def _ended(self, busy: Mapping[Any, _Busy]) -> list[Any]:
        """What has ended; waits a little for the first."""
        first, _ = self._ray.wait(list(busy), num_returns=1, timeout=LOOK_EVERY)
        return list(self._ray.wait(list(busy), num_returns=len(busy), timeout=0)[0]) if first else []

    def _give_up(self, tasks: Sequence[Task], busy: dict[Any, _Busy]) -> Iterator[tuple[Task, Lost]]:
        """Give up the tasks that take too long, and end their workers.

        Raises:
            WorkerError: A worker does not start.
        """
        now, most = time.monotonic(), self.workers.chunk_seconds
        for ref, one in list(busy.items()):
            if one.place is None and now - one.begun > START_SECONDS:
                raise WorkerError(f"a worker did not start in {START_SECONDS:g} seconds.")
            if one.place is not None and now - one.begun > most:
                del busy[ref]
                self._start_anew(one.player, busy)
                yield tasks[one.place], Lost(f"WorkerTooSlow: these episodes took longer than {most:g} seconds.")

    def _start_anew(self, player: Any, busy: dict[Any, _Busy], error: Exception | None = None) -> None:
        """End a worker, whatever it does, and start another, which tells of itself when it is ready.

        Args:
            player: It.
            busy: Where the other is entered.
            error: What ended it before it was ready.

        Raises:
            WorkerError: `TRIES` in a row ended so.
        """
        self._failed_starts = 0 if error is None else self._failed_starts + 1
        if error is not None and self._failed_starts >= TRIES:
            raise WorkerError(f"no worker can be started any more: {_last_line(error)}") from error
        with contextlib.suppress(Exception):
            self._ray.kill(player)
        fresh = self._player()
        self._players[self._players.index(player)] = fresh
        busy[fresh.about.remote()] = _Busy(None, fresh, time.monotonic())


def _last_line(error: Exception) -> str:
    """What an error says at its end: Ray puts the traceback of a worker before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return reason_of(error) if not lines else lines[-1].strip()[:300]


class Plays(Protocol):
    """What episodes are of: anything with settings."""

    @property
    def config(self) -> EnvConfig:
        """Settings of the env."""
        ...


def chunks(
    cell: Plays, episodes: Sequence[Episode], number: int, crew: Crew, width: int, seconds: float | None = None,
    evictions: bool = False,
) -> list[Task]:  # fmt: skip
    """Cut what is left of a cell into tasks of `width` episodes each; a task is of (cell, its episodes)."""
    agent, cpu, tasks = crew.agents[number], torch.device("cpu"), []
    for start in range(0, len(episodes), width):
        part = episodes[start : start + width]
        sent = [replace(one, reference=moved(one.reference, cpu)) for one in part]
        tasks.append(Task("play", (number, agent, cell.config, sent, width, seconds, evictions), (cell, part)))
    return tasks


def make_references(
    crew: Crew, config: EnvConfig, wanted: Wanted, width: int
) -> Iterator[tuple[list[int], list[Reference]]]:
    """Let workers make full-cache texts of (problem, seed), `width` side by side.

    Yields:
        (Places in `wanted`, their texts), as chunks end.

    Raises:
        WorkerError: No worker could.
    """
    tasks = []
    for start in range(0, len(wanted), width):
        places = list(range(start, min(start + width, len(wanted))))
        problems, seeds = [wanted[i][0] for i in places], [wanted[i][1] for i in places]
        tasks.append(Task("references", (config, problems, seeds), places))
    for task, found in crew.do(tasks):
        if isinstance(found, Lost):
            raise WorkerError(f"full-cache texts could not be made. {found.reason}")
        yield task.of, found


@contextlib.contextmanager
def sent_by_value(agent: AgentLike) -> Iterator[None]:
    """Send the code of an agent from a file along: workers cannot import it by its name."""
    from ray import cloudpickle

    module = sys.modules.get(type(agent).__module__)
    if module is None or not module.__name__.startswith(FILE_MODULE):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _knock(address: str) -> None:
    """Look whether anybody listens at HOST:PORT: Ray would go on asking for minutes.

    Raises:
        OSError: Nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--workers and --ray need Ray, which is not installed: pip install 'kv-gym[ray]'. Without it, --shard I/N "
            "shares the episodes among processes that you start yourself."
        ) from error
    return ray
