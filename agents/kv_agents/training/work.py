"""The folder of a training: its state and its log, which are one thing.

The log lies inside the state, so that both are always of the same step; `log.jsonl` is a copy for people, written after
each state. A kill loses what came after the last state, and nothing else. One process at a time works in a folder.
"""

from __future__ import annotations

import io
import json
import secrets
from pathlib import Path
from typing import Any

import torch

from kv_gym.bench.tracking import Tracker, TrackerName
from kv_gym.errors import ConfigError
from kv_gym.files import lock, remove_drafts, write_whole

STATE_FILE, LOG_FILE = "state.pt", "log.jsonl"


class Work:
    """State and log of one training.

    Args:
        folder: Where they are; made if it does not exist.
        identity: What is trained how, as JSON values: a state of another training is refused.
        track: Tracker that is told each row too (`kv_gym.bench.tracking`).

    Attributes:
        log: Rows of numbers so far; `add` adds one.
        tracker: Who is told, if anybody is.

    Raises:
        InUseError: Another process trains in this folder.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], track: TrackerName | None = None) -> None:
        self.folder, self.identity = folder, json.loads(json.dumps(identity))
        self._lock = lock(folder / STATE_FILE, "the state of a training,", "use another --work")
        for name in (STATE_FILE, LOG_FILE):  # nobody else writes here now
            remove_drafts(folder / name)
        self.log: list[dict[str, Any]] = []
        self._track, self._told = track, 0
        self.tracker: Tracker | None = None
        self.run = f"{folder.name}-{secrets.token_hex(4)}"

    def begin(self) -> None:
        """Let the tracker begin, or go on with, the run of this training; what it was not told yet it is told."""
        if self._track is None or self.tracker is not None:
            return
        self.tracker = Tracker(self._track, self.run, self.identity)
        for row in self.log[self._told :]:
            self.tracker.tell(row, row["step"])

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of numbers, one of which is `step`."""
        self.log.append(row)
        if self.tracker is not None:
            self.tracker.tell(row, row["step"])
            self._told = len(self.log)

    def load(self) -> dict[str, Any] | None:
        """Read the state of an interrupted training, and its log; None when there is none.

        Raises:
            ConfigError: It is damaged, or of another training.
        """
        path = self.folder / STATE_FILE
        if not path.exists():
            return None
        remedy = "Delete it, or use another --work."
        try:
            found = torch.load(path, weights_only=True, map_location="cpu")
            identity, log, state = found["identity"], found["log"], found["state"]
        except Exception as error:  # torch.load raises what zipfile, pickle and itself think of
            kind = type(error).__name__
            raise ConfigError(f"{path} is damaged, or no state of a training ({kind}). {remedy}") from error
        if identity != self.identity:
            names = sorted(name for name in identity.keys() | self.identity.keys() if self._differs(identity, name))
            raise ConfigError(f"{path} was made with other settings ({', '.join(names)}). {remedy}")
        self.log = log
        self.run, self._told = found.get("run", self.run), found.get("told", 0)
        self._write_log()
        return dict(state)

    def _differs(self, other: dict[str, Any], name: str) -> bool:
        return bool(other.get(name) != self.identity.get(name))

    def save(self, state: dict[str, Any]) -> None:
        """Write state and log in one piece."""
        data = io.BytesIO()
        known = {"identity": self.identity, "log": self.log, "state": state, "run": self.run, "told": self._told}
        torch.save(known, data)
        write_whole(self.folder / STATE_FILE, data.getbuffer())
        self._write_log()

    def _write_log(self) -> None:
        write_whole(self.folder / LOG_FILE, "".join(json.dumps(row) + "\n" for row in self.log).encode())

    def close(self) -> None:
        """Let others train in this folder."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None
        self._lock.release()
