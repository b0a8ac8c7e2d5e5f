"""Counts the bytes of tensors while episodes are played and references made, to hold them against their plan."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kv_gym.agents import AgentLike
from kv_gym.bench.scoring import keep_scores
from kv_gym.bench.widths import asked_by
from kv_gym.config import EnvConfig
from kv_gym.engine.decoding import Decoding
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.memory import Asked, MemoryPlan, Use
from kv_gym.engine.reference import Reference, generate_references
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.outline import sizes_of
from kv_gym.problems import Problem

PROMPT = 20  # tokens


class TensorBytes(TorchDispatchMode):
    """Counts all tensors that are made inside and not freed yet; what a kernel takes for itself is not seen.

    Args:
        llm: Whose weights count from the beginning.

    Attributes:
        now: Bytes held.
        peak: The most that were held at once.
    """

    def __init__(self, llm: FrozenLLM) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in (*llm.model.parameters(), *llm.model.buffers()):
            self._add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        weakref.finalize(storage, self._drop, storage.nbytes())
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _drop(self, size: int) -> None:
        self.now -= size


def made_up(config: EnvConfig, n: int, n_vocabulary: int) -> list[Reference]:
    """References of random tokens, as long as texts may get."""
    length = config.max_prompt_tokens + config.max_new_tokens
    generator, nothing = torch.Generator().manual_seed(0), torch.zeros(length)
    tokens = torch.randint(3, n_vocabulary - 3, (n, length), generator=generator)
    problems = [Problem(id=str(i), prompt="1", answer="1", family="made up") for i in range(n)]
    return [
        Reference(one, row, PROMPT, nothing, nothing, "length", 0.0, "")
        for one, row in zip(problems, tokens, strict=True)
    ]


def play(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, n: int, steps: int = 2) -> tuple[int, Use]:
    """Play a few steps of N episodes; return (bytes at most, the plan)."""
    asked = asked_by(agent)
    plan = MemoryPlan(sizes_of(llm.model, llm.shape.dtype, llm.shape.device), config, asked)
    gc.collect()
    with TensorBytes(llm) as counted, torch.no_grad():
        batch = EpisodeBatch(llm, config, n, asked.statistics, asked.hindsight, queries=asked.queries)
        batch.texts.stop_ids = batch.texts.stop_ids[:0]
        batch.reset(range(n), made_up(config, n, llm.n_vocabulary), [0] * n)
        for _ in range(steps):
            batch.step(keep_scores(agent, batch.slots()))
    return counted.peak, plan.playing(n)


def longest_prompt(llm: FrozenLLM, tokens: int) -> str:
    """A sum of ones that is as long as so many tokens allow."""
    prompt = "1"
    while len(llm.encode_prompt(longer := f"{prompt}+1")) <= tokens:
        prompt = longer
    return prompt


def make_references(llm: FrozenLLM, config: EnvConfig, n: int) -> tuple[int, Use]:
    """Make full-cache texts of N problems that all go on to their longest length; return as `play` does."""
    plan = MemoryPlan(sizes_of(llm.model, llm.shape.dtype, llm.shape.device), config, Asked())
    prompt = longest_prompt(llm, config.max_prompt_tokens)
    problems = [Problem(id=str(i), prompt=prompt, answer="1", family="made up") for i in range(n)]
    longest, stop_ids = plan.capacity - len(llm.encode_prompt(prompt)), llm.stop_ids
    gc.collect()
    try:
        llm.stop_ids = ()
        with TensorBytes(llm) as counted:
            made = generate_references(llm, problems, [0] * n, Decoding(), longest, config.max_answer_tokens)
            assert all(len(reference) >= longest for _, reference in made)
    finally:
        llm.stop_ids = stop_ids
    return counted.peak, plan.references(n)
