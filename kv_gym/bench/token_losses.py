"""What an eviction rule loses on which tokens of a replayed text.

A token is *long-range* where the full cache is sure of it and `streaming`, which holds the first tokens and the newest,
is not: what it needs stands further back. So these tokens are known of a problem, seed and budget from the rows of
`full` and `streaming`, and are the same for all agents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kv_gym.bench.rows import EpisodeRow, RowFileError, RowKey
from kv_gym.bench.texts import PACKED, losses_by_key, text_key
from kv_gym.errors import ConfigError

FULL, NEAR = "full", "streaming"
SURE = 1.5
"""The full cache is sure of a token that costs it less, nats."""
GONE = 1.0
"""What a token costs more where its context is gone, nats."""
KNOWN = 1.0
"""A token that costs the full cache less can be newly lost, nats."""
ROUNDING = 2e-3
"""Share by which a mean of losses in half precision may differ from that of its row."""

Floats = NDArray[np.float64]
Stored = NDArray[np.float32]
Place = tuple[str, int, int, int]  # problem, seed, budget, evict_every


@dataclass(frozen=True)
class Tokens:
    """Losses of one text, nats, [T] each.

    Attributes:
        loss: Of an agent.
        full: Of the full cache.
        near: Of `streaming`, at the same budget.
    """

    loss: Floats
    full: Floats
    near: Floats

    @property
    def increase(self) -> Floats:
        """What eviction costs each token, nats, [T]."""
        return self.loss - self.full

    @property
    def long_range(self) -> NDArray[np.bool_]:
        """Which tokens need what is far back, [T]."""
        return (self.full < SURE) & (self.near - self.full > GONE)

    @property
    def newly_lost(self) -> NDArray[np.bool_]:
        """Which tokens only the full cache knows, [T]."""
        return (self.full < KNOWN) & (self.increase > GONE)


@dataclass(frozen=True)
class TokenMeasure:
    """A mean over tokens, of which less is better.

    Attributes:
        key: Its name in reports.
        title: Heads its column.
        description: What it is.
        value: Of each token, [T].
        over: Tokens that count, [T] bool.
        defined_by: Agents whose number is high or low by construction: what they lose chooses the tokens.
    """

    key: str
    title: str
    description: str
    value: Callable[[Tokens], Floats]
    over: Callable[[Tokens], NDArray[np.bool_]]
    defined_by: tuple[str, ...] = ()


TOKEN_MEASURES: tuple[TokenMeasure, ...] = (
    TokenMeasure(
        key="long_range",
        title="long-range, nats",
        description=f"increase on tokens of which the full cache is sure (below {SURE} nats) and on which {NEAR} loses "
        f"over {GONE} nat more",
        value=lambda tokens: tokens.increase,
        over=lambda tokens: tokens.long_range,
        defined_by=(NEAR,),
    ),
    TokenMeasure(
        key="elsewhere",
        title="elsewhere, nats",
        description="increase on all other tokens",
        value=lambda tokens: tokens.increase,
        over=lambda tokens: ~tokens.long_range,
        defined_by=(NEAR,),
    ),
    TokenMeasure(
        key="newly_lost",
        title="newly lost, %",
        description=f"share of all tokens that cost the full cache less than {KNOWN} nat and the agent over {GONE} nat "
        "more",
        value=lambda tokens: tokens.newly_lost.astype(np.float64),
        over=lambda tokens: np.ones(len(tokens.loss), dtype=bool),
    ),
)


@dataclass(frozen=True)
class TokenSums:
    """What one episode adds to the means.

    Attributes:
        n_tokens: Replayed tokens.
        n_long_range: Of those, the long-range ones.
        sums: (Sum, number of tokens that count) by the key of a measure.
    """

    n_tokens: int
    n_long_range: int
    sums: dict[str, tuple[float, int]]


def sums_of(tokens: Tokens) -> TokenSums:
    """Sum up one text."""
    sums = {}
    for measure in TOKEN_MEASURES:
        over = measure.over(tokens)
        sums[measure.key] = float(measure.value(tokens)[over].sum()), int(over.sum())
    return TokenSums(len(tokens.loss), int(tokens.long_range.sum()), sums)


def token_sums(rows: Iterable[EpisodeRow], folder: Path) -> dict[RowKey, TokenSums]:
    """Sum up the replayed episodes that `full` and `streaming` have played too, by the key of their row.

    Args:
        rows: That belong together. Those of generate mode and failed ones have no losses and are left out.
        folder: Where their texts are.

    Raises:
        ConfigError: Losses are missing, those of `full` or `streaming` at a budget, or they are of different texts.
        RowFileError: The file of texts is damaged, or is not that of these rows.
    """
    played = [row for row in rows if row.mode == "replay" and row.failed is None]
    losses = _losses(played, folder)
    full, near = (_reference(name, played, losses) for name in (FULL, NEAR))
    for budget in sorted({row.budget for row in played}):
        if not any(place in near for place in full if place[2] == budget):
            raise _without_reference(folder, budget, played)
    found = {}
    for row in played:
        place = _place(row)
        if place in full and place in near:
            values = losses[text_key(row)], full[place], near[place]
            if len({len(one) for one in values}) > 1:
                raise ConfigError(
                    f"{row.agent}, {FULL} and {NEAR} have {', '.join(str(len(one)) for one in values)} losses on "
                    f"{row.problem} at budget {row.budget}, which must be as many. Delete {folder / PACKED} and run "
                    "`kv-gym bench` with --texts again."
                )
            found[row.key] = sums_of(Tokens(*(one.astype(np.float64) for one in values)))
    return found


def _losses(rows: Sequence[EpisodeRow], folder: Path) -> dict[str, Stored]:
    """Losses of each row by the key of its text, [T] each.

    Raises:
        ConfigError: A row has none.
        RowFileError: They are not what the row was made from.
    """
    if not rows:
        raise ConfigError(
            f"{folder}: no episode was replayed, and only those have losses. Run `kv-gym bench` with --mode replay "
            "--texts."
        )
    keys = {text_key(row): row for row in rows}
    found = losses_by_key(folder, keys)
    missing = [row for key, row in keys.items() if key not in found]
    if missing:
        raise ConfigError(
            f"{folder / PACKED} has no losses of {len(missing)} of {len(rows)} replayed episodes, as of "
            f"{missing[0].agent} on {missing[0].problem} at budget {missing[0].budget}. Run `kv-gym bench` with "
            "--texts; if the file was written by an older version, delete it first."
        )
    for key, row in keys.items():
        _check_mean(row, found[key], folder)
    return found


def _check_mean(row: EpisodeRow, losses: Stored, folder: Path) -> None:
    """Refuse losses that the mean of a row is not made of: a file of texts outlives the rows beside it.

    Raises:
        RowFileError: Says whose.
    """
    wanted, mean = row.measured("loss"), float(losses.mean(dtype=np.float64)) if len(losses) else None
    if wanted is None or mean is None or abs(mean - wanted) > ROUNDING * abs(wanted) + 1e-6:
        raise RowFileError(
            f"{folder / PACKED}: the losses of {row.agent} on {row.problem} at budget {row.budget} have the mean "
            f"{mean}, and its row says {wanted}. Delete the file; --texts plays its episodes again."
        )


def _place(row: EpisodeRow) -> Place:
    return row.problem, row.seed, row.budget, row.evict_every


def _reference(name: str, rows: Iterable[EpisodeRow], losses: dict[str, Stored]) -> dict[Place, Stored]:
    """Losses of the agent that tokens are told apart by.

    Raises:
        ConfigError: There are two of that name.
    """
    mine = [row for row in rows if row.agent == name and row.evicts == (name != FULL)]
    sources = sorted({row.agent_source for row in mine})
    if len(sources) > 1:
        raise ConfigError(
            f"two agents are called {name!r} ({', '.join(sources)}), and each tells other tokens to be long-range. "
            "Write one of them to another folder with --out."
        )
    return {_place(row): losses[text_key(row)] for row in mine}


def _without_reference(folder: Path, budget: int, rows: Iterable[EpisodeRow]) -> ConfigError:
    there = {row.agent for row in rows if row.budget == budget}
    missing = [name for name in (FULL, NEAR) if name not in there]
    what = f"no replayed episode of {' and of '.join(missing)}" if missing else f"no episode of both {FULL} and {NEAR}"
    return ConfigError(
        f"{folder}: at budget {budget} there is {what}, by which long-range tokens are told. Run `kv-gym bench` with "
        f"--agent {FULL} --agent {NEAR} --mode replay --texts, or choose other budgets."
    )
