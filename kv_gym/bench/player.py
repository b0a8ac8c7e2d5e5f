"""What runs in a worker: one model, and the agents that have seen it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from kv_gym.agents import AgentLike
from kv_gym.bench import provenance
from kv_gym.bench.guard import ModelTouched, prepare_watched, reason_of
from kv_gym.bench.plan import Episode
from kv_gym.bench.play import Failed, Time, play
from kv_gym.bench.widths import Widths, find_widths
from kv_gym.config import EnvConfig
from kv_gym.engine.records import EpisodeRecord
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_anew, load_llm
from kv_gym.llm.tokens import way_to_read
from kv_gym.problems import Problem

Played = list[tuple[int, EpisodeRecord | Failed, Time]]
"""Of each episode of a chunk: its place, what came of it, its share of the time."""


@dataclass(frozen=True)
class About:
    """What a worker says of itself; all of a benchmark must be alike.

    Attributes:
        fingerprint: Of its model.
        computation: How it computes (`kv_gym.bench.provenance.computation`).
        versions: Of kv_gym, python and the libraries that can move a number.
        hardware: Its machine.
    """

    fingerprint: str
    computation: str
    versions: Mapping[str, str]
    hardware: Mapping[str, str | int]


class Player:
    """What runs in a worker: one model, and the agents that have seen it.

    Args:
        config: Names the model; `compile` says how it is read.
        threads: Of torch.
    """

    def __init__(self, config: EnvConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = config
        self.llm = load_llm(config.model, config.revision, config.dtype, config.device)
        self.agents: dict[int, AgentLike] = {}

    def about(self) -> About:
        """Say what it is."""
        return about(self.llm, self.config)

    def widths(
        self, wanted: int | Literal["auto"], configs: Sequence[EnvConfig], share: int, *agents: AgentLike
    ) -> Widths:
        """Find how many rows stand side by side, in its share of the memory."""
        return find_widths(wanted, configs, agents, share)

    def references(self, config: EnvConfig, problems: list[Problem], seeds: list[int]) -> list[Reference]:
        """Make full-cache texts, side by side."""
        made = ReferenceStore(self.llm, config).get(problems, seeds, width=len(problems))
        return [moved(reference, torch.device("cpu")) for reference in made]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of an installed package with the model and `arguments`."""
        return function(self.llm, *arguments)

    def play(
        self, number: int, agent: AgentLike, config: EnvConfig, episodes: Sequence[Episode], width: int,
        seconds: float | None, evictions: bool = False,
    ) -> Played:  # fmt: skip
        """Play a chunk.

        Args:
            number: Of the agent among those of the benchmark.
            agent: It, as it was when it was sent.
            config: Settings of the env.
            episodes: With references on the CPU.
            width: Episodes side by side.
            seconds: Longest time of a decision.
            evictions: Records hold which slots went.
        """
        here = [replace(one, reference=moved(one.reference, self.llm.shape.device)) for one in episodes]
        places = {id(episode): place for place, episode in enumerate(here)}
        played: Played = []
        try:
            if number not in self.agents:
                prepare_watched(self.llm, agent)
                self.agents[number] = agent
            for episode, outcome, spent in play(
                self.llm, config, self.agents[number], here, width, evictions, seconds
            ):  # fmt: skip
                played.append((places.pop(id(episode)), on_cpu(outcome), spent))
        except ModelTouched as touched:
            played += [(place, Failed(reason_of(touched), touched=True), Time()) for place in places.values()]
            self.llm, self.agents = load_anew(self.config, self.llm), {}
        return played


def about(llm: FrozenLLM, config: EnvConfig) -> About:
    """What a process with this model says of itself."""
    shape = llm.shape
    computation = provenance.computation(shape.dtype, shape.device, way_to_read(shape.device, config.compile))
    return About(llm.fingerprint, computation, provenance.versions(), provenance.hardware(shape.device))


def moved(reference: Reference, device: torch.device) -> Reference:
    """A reference on another device."""
    return replace(
        reference, tokens=reference.tokens.to(device), surprisal=reference.surprisal.to(device),
        entropy=reference.entropy.to(device),
    )  # fmt: skip


def on_cpu(outcome: EpisodeRecord | Failed) -> EpisodeRecord | Failed:
    """What can be sent to a process without this one's device."""
    if isinstance(outcome, Failed):
        return outcome
    there = {name: getattr(outcome, name) for name in ("losses", "evicted")}
    return replace(outcome, **{name: found.cpu() for name, found in there.items() if found is not None})
