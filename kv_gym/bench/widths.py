"""How many rows stand side by side: what fits into the memory that is free, refused before a model is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.guard import MOST_QUERIES
from kv_gym.bench.plan import AUTO, MOST_SIDE_BY_SIDE
from kv_gym.config import EnvConfig
from kv_gym.engine.memory import Asked, MemoryPlan, Use, in_words, widest
from kv_gym.errors import ConfigError
from kv_gym.llm.device import find_device, free_memory, usable
from kv_gym.llm.loading import is_loaded, model_sizes

MOST_ON_CPU = 64
"""Rows that a CPU reads side by side unless more are asked for: 64 are 1.6 times as fast as 16, 256 only 2.2 times."""
REMEDY = (
    "Use a shorter dtype, a smaller model, budget, max_prompt_tokens or max_new_tokens, or a device with more memory; "
    "`kv-gym models plan` tells what each takes."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Room:
    """Memory that is planned with.

    Attributes:
        free: Bytes that are free.
        device: Where.
        whole: Whether the weights of the model must fit too; False where they are loaded already.
    """

    free: int
    device: torch.device
    whole: bool = True

    def size(self, weights: int) -> int:
        """Bytes that a plan, weights included, may have."""
        return usable(self.free, self.device) + (0 if self.whole else weights)

    def told(self) -> str:
        """In words."""
        return f"{in_words(self.free)} of {self.device} are free, of which {in_words(usable(self.free, self.device))}"


@dataclass(frozen=True)
class Widths:
    """Rows side by side.

    Attributes:
        playing: Episodes.
        references: Full-cache texts that are made.
    """

    playing: int
    references: int


def asked_by(agent: AgentLike) -> Asked:
    """What an agent makes the engine hold; one that asks for what cannot be is refused later, by name."""
    queries = max(0, min(queries_of(agent), MOST_QUERIES))
    return Asked(agent.needs, queries, agent.uses_hindsight, getattr(agent, "scope", "layer") == "model")


def find_widths(
    wanted: int | Literal["auto"], configs: Iterable[EnvConfig], agents: Sequence[AgentLike], share: int = 1
) -> Widths:
    """Plan a run: the most rows with which everything in it fits, or as many as are wanted if they fit.

    Args:
        wanted: Episodes side by side; `auto` is as many as fit, on a CPU up to `MOST_ON_CPU`.
        configs: Settings of the cells, all of one model.
        agents: Who plays them.
        share: How many processes the device's memory is shared among.

    Raises:
        ConfigError: Not even one row fits; or, on a GPU, not as many as are wanted. Says what needs how much.
        KVGymError: The model or its device cannot be found.
    """
    configs = list(configs)
    first = configs[0]
    device = find_device(first.device)
    most = wanted if wanted != AUTO else most_on(device)
    free = free_memory(device)
    if free is None:
        return Widths(most, most)
    named = (first.model, first.revision, first.dtype, first.device)
    sizes, room = model_sizes(*named), Room(free // share, device, whole=not is_loaded(*named))
    plans = [MemoryPlan(sizes, config, asked_by(one)) for config in configs for one in agents if one.evicts]
    needs = [playing(plan) for plan in plans]
    widths = [fitting(need, room, most, narrower=wanted == AUTO) for need in needs]
    longest = next((config for config in configs if config.mode == "replay"), first)  # it may have traces to read
    full = references(MemoryPlan(sizes, longest, Asked()))
    return Widths(min(widths, default=most), fitting(full, room, most, narrower=True, strict=wanted == AUTO))


def most_on(device: torch.device) -> int:
    """Rows that a device reads side by side, whatever its memory."""
    return MOST_SIDE_BY_SIDE if device.type == "cuda" else MOST_ON_CPU


@dataclass(frozen=True)
class Need:
    """What is done side by side.

    Attributes:
        what: It is.
        plan: Knows its bytes.
        use: Of so many rows.
    """

    what: str
    plan: MemoryPlan
    use: Callable[[int], Use]

    def fits(self, room: Room, most: int) -> int:
        """How many rows do, up to `most`."""
        return widest(self.use, room.size(self.plan.sizes.weights), most)

    def refusal(self, n: int, room: Room) -> str:
        """That so many rows do not fit, with the numbers."""
        config = self.plan.config
        return (
            f"model {config.model!r} in {config.dtype} needs {self.use(n).told()} for {self.what}, {n} side by side, "
            f"at budget={config.budget}, evict_every={config.evict_every} and texts of up to {self.plan.capacity} "
            f"tokens; {room.told()} may be used."
        )

    def check(self, n: int, room: Room) -> None:
        """Refuse so many rows if they do not fit.

        Raises:
            ConfigError: Says how many do, or what to change.
        """
        fits = self.fits(room, n)
        if fits < n:
            raise ConfigError(f"{self.refusal(n, room)} {f'{fits} fit: use --width {even(fits)}.' if fits else REMEDY}")


def playing(plan: MemoryPlan) -> Need:
    """Episodes of an agent."""
    return Need("episodes", plan, plan.playing)


def references(plan: MemoryPlan) -> Need:
    """Full-cache texts."""
    return Need("full-cache references", plan, plan.references)


def fitting(need: Need, room: Room, most: int, narrower: bool, strict: bool = True) -> int:
    """Rows to run with.

    Args:
        need: What is run.
        room: Memory.
        most: Rows.
        narrower: Whether fewer will do.
        strict: Whether it is refused on a CPU too if one row does not fit; else the system may try.

    Raises:
        ConfigError: They do not fit.
    """
    fits = need.fits(room, most)
    if fits == most:
        return most
    if narrower and fits:
        return even(fits)
    rows = 1 if narrower else most
    if room.device.type == "cuda" or (narrower and strict):
        need.check(rows, room)
    logger.warning("%s The system may have to swap, or end the program.", need.refusal(rows, room))
    return rows


def even(n: int) -> int:
    """The next lower of 1, 2, 3, 4, 6, 8, 12, 16, 24...: a little less free memory gives the same run."""
    step = max(1, 1 << max(0, n.bit_length() - 2))
    return n - n % step
