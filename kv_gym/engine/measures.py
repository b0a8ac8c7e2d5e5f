"""What an episode measures besides its answer, one declaration each.

Measures are told from replayed episodes: in generate mode the LLM's own tokens are cheap for itself, and nothing is
counted without a full cache that reads along.

A measure is added here and nowhere else: episodes sum it up, rows have a column for it, reports average it, and tables
and pages show it. The terms of the reward are measures too. Torch is only needed by those who call its functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kv_gym.errors import ConfigError
from kv_gym.rewards import ANSWER, REWARD_TERMS, RewardTerm, Window

if TYPE_CHECKING:
    from torch import Tensor

Value = Callable[[Window, Any], "Tensor"]


@dataclass(frozen=True)
class Measure:
    """One column of results.

    Attributes:
        name: Of the column in rows.
        title: What people read of a step.
        unit: Of its value; "" for none, and for shares.
        description: What it is.
        per: What an episode's mean is over: `token`s, or `step`s.
        value: (window, settings of the env) -> [R, T] per token, [R] per step.
        full: The same of the full cache: rows have it as `<name>_full`, and reports show the ratio of the two.
        over: Tokens that count, [R, T] bool; of those that `Window.counted` has.
        report: Name in reports; default is `name`.
        table: Heads its table in the terminal; "" shows none.
        page: The same on results pages.
    """

    name: str
    title: str
    unit: str
    description: str
    per: Literal["token", "step"]
    value: Value
    full: Value | None = None
    over: Callable[[Window], Tensor] = lambda window: window.counted
    report: str = ""
    table: str = ""
    page: str = ""

    @property
    def key(self) -> str:
        """Its name in reports."""
        return self.report or self.name

    @property
    def columns(self) -> dict[str, Value]:
        """Columns of a row by name."""
        return {self.name: self.value} | ({} if self.full is None else {f"{self.name}_full": self.full})


def measure_of(term: RewardTerm) -> Measure:
    """A term of the reward as a measure: its mean over steps."""
    unit = f", {term.unit}" if term.unit else ""
    table = f"{term.title.capitalize()}{unit}" if term.shown else ""
    return Measure(term.name, term.title, term.unit, term.description, "step", term.value, table=table)


MEASURES: tuple[Measure, ...] = (
    *(measure_of(term) for term in REWARD_TERMS if term.name != ANSWER),
    Measure(
        name="loss",
        title="loss",
        unit="nats",
        description="loss of the trace's tokens after the first eviction",
        per="token",
        value=lambda window, config: window.loss,
        full=lambda window, config: window.loss_full,
        report="loss_ratio",
        table="Loss over full-cache loss",
        page="loss ratio",
    ),
    Measure(
        name="loss_low",
        title="loss of low-entropy tokens",
        unit="nats",
        description="the same of the four fifths of the tokens with the lowest full-cache entropy",
        per="token",
        value=lambda window, config: window.loss,
        full=lambda window, config: window.loss_full,
        over=lambda window: window.counted & ~window.high,
        report="loss_ratio_low",
    ),
    Measure(
        name="loss_high",
        title="loss of high-entropy tokens",
        unit="nats",
        description="the same of the other tokens",
        per="token",
        value=lambda window, config: window.loss,
        full=lambda window, config: window.loss_full,
        over=lambda window: window.high,
        report="loss_ratio_high",
    ),
    Measure(
        name="missed_attention",
        title="missed attention",
        unit="",
        description="full-cache attention that would have gone to evicted slots, mean over layers and heads",
        per="step",
        value=lambda window, config: window.missed.mean((-2, -1)),
    ),
)


def result_columns() -> dict[str, Measure]:
    """The measure behind each column of a row."""
    return {name: measure for measure in MEASURES for name in measure.columns}


def check_names() -> None:
    """Refuse measures that share a column or a name in reports.

    Raises:
        ConfigError: Names both.
    """
    for what, names in (("column", lambda m: list(m.columns)), ("name in reports", lambda m: [m.key])):
        owners: dict[str, Measure] = {}
        for measure in MEASURES:
            for name in names(measure):
                other = owners.setdefault(name, measure)
                if other is not measure:
                    raise ConfigError(
                        f"measures {other.name!r} and {measure.name!r} ({other.title}, {measure.title}) both have the "
                        f"{what} {name!r}. Give one of them another."
                    )


check_names()


def step_measures() -> list[Measure]:
    """Those that are known of a single step: recordings hold them."""
    return [measure for measure in MEASURES if measure.per == "step"]


def sums_of(window: Window, config: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield what a window adds: (column, sum [R], count [R])."""
    steps = window.counted.new_ones(len(window.counted)).long()
    for measure in MEASURES:
        over = measure.over(window)
        for name, value in measure.columns.items():
            values = value(window, config)
            if measure.per == "step":
                yield name, values.nan_to_num(0.0), steps * ~values.isnan()
            else:  # what does not count may be anything, also no number
                yield name, values.where(over, 0.0).sum(-1), over.sum(-1)


def mean(total: float, count: float, n_tokens: float) -> float:
    """Mean of a column over an episode; NaN where nothing was measured at all."""
    return total / count if count and n_tokens else math.nan
