"""What is written down of N episodes while they run: sums of measures, actions, and how they ended."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.eviction import others
from kv_gym.engine.measures import mean, result_columns, sums_of
from kv_gym.engine.reference import Reference, answer_start
from kv_gym.engine.texts import Texts, reference_window
from kv_gym.llm.cache import CacheShape
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.rewards import Window


@dataclass(frozen=True)
class EpisodeRecord:
    """What is known of one episode at its end.

    Attributes:
        correct: Score of the answer, 0 to 1; most problems know right and wrong only. 0 where it is undecided.
        stop: `eos` or `length`.
        n_tokens: Generated tokens.
        n_steps: Evictions.
        measured: Mean of each column of `kv_gym.engine.measures`; NaN where nothing was measured.
        tokens_sha256: Hash of the generated token ids.
        actions_sha256: Hash of the kept slots, step by step.
        text: What was generated.
        evicted: Slots that went, [steps, L, H_kv, evict_every] int16, where the batch remembers them.
        undecided: Why the answer could not be graded; None if it was.
        losses: In replay, -log p of each token of the trace after the first eviction, nats, [T].
    """

    correct: float
    stop: str
    n_tokens: int
    n_steps: int
    measured: Mapping[str, float]
    tokens_sha256: str
    actions_sha256: str
    text: str
    evicted: Tensor | None = None
    undecided: str | None = None
    losses: Tensor | None = None


class Records:
    """Sums and actions, a row an episode.

    Args:
        shape: Of the model's cache.
        config: Settings of the env.
        n: Episodes, N.
        evictions: Remember which slots went.

    Attributes:
        sums, counts: Of each column of results, [N] float64.
        tokens: Tokens that were measured, [N].
        steps: Evictions, [N].
        stopped: The LLM stopped by itself, [N] bool.
        correct: Score of the answer, [N]; 0 until it is known.
        undecided: Why the answer could not be graded, a row each.
    """

    def __init__(self, shape: CacheShape, config: EnvConfig, n: int, evictions: bool) -> None:
        self.shape, self.config = shape, config

        def column(dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=shape.device)

        names = result_columns()
        self.sums, self.counts = ({name: column() for name in names} for _ in range(2))
        self.tokens, self.steps = column(torch.long), column(torch.long)
        self.stopped, self.correct = column(torch.bool), column()
        self.undecided: list[str | None] = [None] * n
        self._actions = [hashlib.sha256() for _ in range(n)]
        self._evicted: list[list[Tensor]] | None = [[] for _ in range(n)] if evictions else None

    def start(self, row: int) -> None:
        """Forget what was in `row`."""
        for values in (*self.sums.values(), *self.counts.values(), self.tokens, self.steps, self.stopped, self.correct):
            values[row] = 0
        self.undecided[row] = None
        self._actions[row] = hashlib.sha256()
        if self._evicted is not None:
            self._evicted[row] = []

    def evict(self, rows: list[int], keep: Tensor) -> None:
        """Enter the slots that stay, [N, L, H_kv, budget], of the rows that run."""
        gone = None if self._evicted is None else others(keep, self.config.slots).short().cpu()
        kept = keep.to(torch.int32).cpu().contiguous().numpy()  # one way from the device for all rows
        for row in rows:
            self._actions[row].update(kept[row].tobytes())
            if self._evicted is not None and gone is not None:
                self._evicted[row].append(gone[row].clone())

    def evicted(self, row: int) -> Tensor:
        """Slots that went in each step of the episode in `row`, ascending, [steps, L, H_kv, evict_every] int16."""
        assert self._evicted is not None, "made without evictions=True"
        shape = self.shape
        empty = torch.zeros(0, shape.n_layers, shape.n_kv_heads, self.config.evict_every, dtype=torch.short)
        return torch.stack(self._evicted[row]) if self._evicted[row] else empty

    def add(self, rows: Tensor, window: Window) -> None:
        """Add a window of the episodes in `rows` [R]."""
        self.tokens[rows] += window.counted.sum(-1)
        self.steps[rows] += 1
        for name, total, count in sums_of(window, self.config):
            self.sums[name][rows] += total
            self.counts[name][rows] += count

    def record(self, row: int, texts: Texts) -> EpisodeRecord:
        """Sum up the episode in `row`."""
        generated, n_tokens = texts.generated(row), float(self.tokens[row])
        return EpisodeRecord(
            correct=float(self.correct[row]),
            stop="eos" if self.stopped[row] else "length",
            n_tokens=len(generated),
            n_steps=int(self.steps[row]),
            measured={
                name: mean(float(total[row]), float(self.counts[name][row]), n_tokens)
                for name, total in self.sums.items()
            },
            tokens_sha256=tokens_hash(generated),
            actions_sha256=self._actions[row].hexdigest(),
            text=texts.text(row),
            evicted=None if self._evicted is None else self.evicted(row),
            undecided=self.undecided[row],
            losses=texts.losses(row) if self.config.mode == "replay" else None,
        )


def full_cache_record(llm: FrozenLLM, config: EnvConfig, reference: Reference) -> EpisodeRecord:
    """What an episode without evictions gives: its reference, measured over the same tokens as in replay."""
    generated = reference.tokens[reference.n_prompt :]
    window = reference_window(reference, config, answer_start(llm, reference) if config.mode == "replay" else 0)
    n_tokens = float(window.counted.sum())
    return EpisodeRecord(
        correct=reference.correct,
        stop=reference.stop,
        n_tokens=len(generated),
        n_steps=0,
        measured={name: mean(float(total), float(count), n_tokens) for name, total, count in sums_of(window, config)},
        tokens_sha256=tokens_hash(generated),
        actions_sha256=hashlib.sha256().hexdigest(),
        text=llm.decode(generated),
        undecided=reference.undecided,
        losses=window.loss[0].float() if config.mode == "replay" else None,
    )


def tokens_hash(tokens: Tensor) -> str:
    """Hash of generated token ids."""
    return hashlib.sha256(tokens.int().cpu().numpy().tobytes()).hexdigest()
