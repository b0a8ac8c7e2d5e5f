"""Telling the numbers of a training to an experiment tracker, as they come."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from kv_gym.errors import ConfigError, unknown_name

TrackerName = Literal["wandb", "trackio"]
PROJECT = "kv-gym"


class Tracker:
    """One run of wandb or trackio, whose interfaces are alike. A training that resumes goes on with its run.

    Args:
        name: The library.
        run: Its name, of this training alone.
        settings: What is trained how, JSON values.

    Raises:
        ConfigError: The library is not installed, or cannot begin a run.
    """

    def __init__(self, name: TrackerName, run: str, settings: Mapping[str, Any]) -> None:
        library = library_of(name)
        known = {"id": run} if name == "wandb" else {}  # trackio knows a run by its name
        try:
            self._run = library.init(project=PROJECT, name=run, config=dict(settings), resume="allow", **known)
        except Exception as error:  # whatever it thinks of accounts, networks and folders
            raise ConfigError(f"--track {name}: it cannot begin a run: {type(error).__name__}: {error}") from error

    def tell(self, numbers: Mapping[str, Any], step: int) -> None:
        """Log numbers; what is none (a list, a text) is left out, and what is nested goes by `name/key`."""
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in _flat(numbers).items()}
        found = {key: value for key, value in plain.items() if isinstance(value, int | float)}
        found.pop("step", None)  # trackio has a column of that name
        self._run.log(found, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def library_of(name: str) -> Any:
    """Import a tracker.

    Raises:
        UnknownNameError: There is no such tracker.
        ConfigError: It is not installed.
    """
    if name not in get_args(TrackerName):
        raise unknown_name("tracker", name, get_args(TrackerName))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--track {name}: it is not installed (pip install {name}).") from error


def _flat(numbers: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        found |= _flat(value, f"{before}{key}/") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found
