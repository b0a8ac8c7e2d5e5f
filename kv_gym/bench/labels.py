"""What agents are called in tables and plots: their names, and of several with one name what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kv_gym.bench.rows import EpisodeRow

SETTING = re.compile(r"(?:^|, )(\w+)=")
"""Where a setting begins in the brackets behind a class (`kv_gym.identity.Identity.where`)."""


def labels(episodes: Iterable[EpisodeRow]) -> dict[tuple[str, str], str]:
    """Name each agent; several with one name get the options that differ between them behind it.

    Where those are not what differs, or do not tell all of them apart, the whole source stands there.

    Returns:
        The label of each (name, source): `rkv`, `rkv lam=0.5`, or `rkv (mine.py:RKV)`.
    """
    by_name: dict[str, list[str]] = {}
    for name, source in dict.fromkeys((row.agent, row.agent_source) for row in episodes):
        by_name.setdefault(name, []).append(source)
    return {
        (name, source): label
        for name, sources in by_name.items()
        for source, label in zip(sources, _told_apart(name, sources), strict=True)
    }


def _told_apart(name: str, sources: Sequence[str]) -> list[str]:
    """A label for each source of one name."""
    if len(sources) == 1:
        return [name]
    classes, options = zip(*map(settings_of, sources), strict=True)
    every = dict.fromkeys(option for one in options for option in one)
    differ = [option for option in every if len({one.get(option) for one in options}) > 1]
    found = [" ".join([name, *(f"{option}={one[option]}" for option in differ if option in one)]) for one in options]
    unclear = len(set(classes)) > 1 or len(set(found)) < len(found) or name in found
    return [f"{name} ({source})" for source in sources] if unclear else found


def settings_of(source: str) -> tuple[str, dict[str, str]]:
    """Cut `rkv:RKV(lam=0.5, n_obs=8)` into the class and its settings, as texts."""
    place, bracket, told = source.partition("(")
    pieces = SETTING.split(told.removesuffix(")")) if bracket else [""]
    return place, dict(zip(pieces[1::2], pieces[2::2], strict=True))
