"""What people see of an episode: its text, and which layer and KV head still holds each token of it, as plain arrays.

`FrameMaker` reads an `EpisodeBatch` and changes nothing in it. Drawing is somebody else's work: `kv_gym.show.rendering`
makes pictures, `kv_gym.show.terminal` makes text.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kv_gym.engine.episodes import EpisodeBatch, StepResult
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.rewards import ANSWER, REWARD_TERMS

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
BYTES_PER_CHARACTER = 4  # of UTF-8; a character may be spread over as many tokens
KNOWN_PIECES = 1 << 16  # short runs of tokens whose text is remembered


@dataclass(frozen=True)
class Frame:
    """One moment of one episode, after a reset or a step. T tokens are read; one more is written and not yet read.

    Attributes:
        env_id: The environment.
        problem: Id of the problem.
        family: Kind of problem.
        budget: Slots that stay per layer and KV head.
        step: Steps so far.
        n_prompt: Tokens of the prompt.
        tokens: Text of each written token, safe to print, [T] or [T + 1]; "" for special ones.
        held: Which layer and head holds each token now, [L, H_kv, T] bool.
        gone: What went in the last step, [L, H_kv, T] bool.
        attention: What the newest `evict_every` queries paid to what is held, mean over them and the GQA group, 0 for
            what is not, [L, H_kv, T] float32.
        axis: Tokens that a picture has room for; grows by half when the text outgrows it, and does not tell how long
            the text will be.
        kv_bytes: Of keys and values held.
        kv_bytes_full: What the full cache would hold.
        reward: Of the last step.
        total: Sum of the rewards of this episode.
        terms: Of the reward of the last step, by name, without the answer's.
        score: Score of the answer, 0 to 1; None while the LLM writes.
        n_ended: Episodes that ended before this moment, of all rows.
        total_score: Sum of their scores.
    """

    env_id: str
    problem: str
    family: str
    budget: int
    step: int
    n_prompt: int
    tokens: tuple[str, ...]
    held: np.ndarray
    gone: np.ndarray
    attention: np.ndarray
    axis: int
    kv_bytes: int
    kv_bytes_full: int
    reward: float
    total: float
    terms: dict[str, float]
    score: float | None
    n_ended: int
    total_score: float

    @property
    def share(self) -> np.ndarray:
        """Share of the heads that hold each written token, [len(tokens)]; 1 for the unread one."""
        held = self.held.mean((0, 1))
        return np.concatenate([held, np.ones(len(self.tokens) - len(held))])

    @property
    def lost(self) -> np.ndarray:
        """Which tokens lost their last copy in the last step, [len(tokens)] bool."""
        lost = np.logical_and(self.gone.any((0, 1)), ~self.held.any((0, 1)))
        return np.concatenate([lost, np.zeros(len(self.tokens) - len(lost), dtype=bool)])


class FrameMaker:
    """Follows the rows of a batch. Tell it when episodes start and when a step begins and ends.

    Args:
        env_id: Name of the environment, for the title.
        batch: The episodes.
    """

    def __init__(self, env_id: str, batch: EpisodeBatch) -> None:
        self.env_id, self.batch = env_id, batch
        self.n_ended, self.total_score = 0, 0.0
        self._before = self._positions().clone()  # [L, N, H_kv, S]
        self._result: StepResult | None = None
        self._total = torch.zeros(batch.n, dtype=torch.float64)
        self._texts = TokenTexts(batch.llm)

    def _positions(self) -> Tensor:
        return self.batch.cache.positions

    def start(self, rows: Sequence[int]) -> None:
        """Say that episodes started in `rows`."""
        index = list(rows)
        self._before[:, index] = self._positions()[:, index]
        self._total[index] = 0
        if self._result is not None:
            for values in (self._result.reward, *self._result.terms.values()):
                values[index] = 0

    def begin_step(self) -> None:
        """Say that the agent has decided and nothing is evicted yet."""
        self._before = self._positions().clone()

    def end_step(self, result: StepResult) -> None:
        """Say what the step came to."""
        reward, terms = result.reward.clone(), {name: values.clone() for name, values in result.terms.items()}
        self._result = StepResult(reward, terms, result.terminated, result.truncated)
        self._total += reward.cpu()
        ends = result.terminated | result.truncated
        self.n_ended += int(ends.sum())
        self.total_score += float(self.batch.records.correct[ends].sum())

    def frames(self, rows: Sequence[int]) -> list[Frame]:
        """Return what `rows` look like now."""
        batch = self.batch
        attention = batch.cache.rows(batch.config.evict_every)
        return [self._frame(row, attention[:, row].float().mean((-3, -2))) for row in rows]

    def _frame(self, row: int, attention: Tensor) -> Frame:
        batch, reference = self.batch, self.batch.texts.reference(row)
        written = min(int(batch.texts.length[row]) + 1, int(batch.texts.end[row]))
        read = min(int(batch.texts.length[row]), int(batch.texts.end[row]))
        now, before = (slots[:, row].cpu().numpy() for slots in (self._positions(), self._before))
        held, was_held = mark(now, read), mark(before, read)
        running = bool(batch.active[row])
        return Frame(
            env_id=self.env_id,
            problem=reference.problem.id,
            family=reference.problem.family,
            budget=batch.config.budget,
            step=int(batch.decision[row]),
            n_prompt=reference.n_prompt,
            tokens=self._texts(batch.texts.tokens[row, :written].tolist()),
            held=held,
            gone=was_held & ~held,
            attention=spread(attention.cpu().numpy(), now, read),
            axis=axis_length(written, batch.config.slots),
            kv_bytes=batch.cache.nbytes,
            kv_bytes_full=read * batch.llm.shape.slot_bytes,
            total=float(self._total[row]),
            score=None if running else float(batch.records.correct[row]),
            n_ended=self.n_ended,
            total_score=self.total_score,
            reward=0.0 if self._result is None else float(self._result.reward[row]),
            terms=self._terms(row),
        )

    def _terms(self, row: int) -> dict[str, float]:
        names = [term.name for term in REWARD_TERMS if term.name != ANSWER]
        return {name: 0.0 if self._result is None else float(self._result.terms[name][row]) for name in names}


def mark(positions: np.ndarray, length: int) -> np.ndarray:
    """Mark the positions below `length` that slots stand at, [..., S] -> [..., length] bool."""
    return spread(np.ones(positions.shape, dtype=bool), positions, length)


def spread(values: np.ndarray, positions: np.ndarray, length: int) -> np.ndarray:
    """Put the values of slots at their positions below `length`, 0 elsewhere, [..., S] -> [..., length]."""
    room = max(length, int(positions.max()) + 1)
    found = np.zeros((*positions.shape[:-1], room), dtype=values.dtype)
    np.put_along_axis(found, positions, values, axis=-1)
    return found[..., :length]


def axis_length(length: int, slots: int) -> int:
    """Return how many tokens a picture should have room for: half as many again as slots, as often as needed."""
    room = slots + slots // 2
    while room < length:
        room += room // 2
    return room


class TokenTexts:
    """Text of single tokens, as it reads in their context, safe to print.

    Spaces that a tokenizer drops at the start of a text stay, and a character that is spread over several tokens
    belongs to the last of them.

    Args:
        llm: Whose tokenizer.
    """

    def __init__(self, llm: FrozenLLM) -> None:
        self._decode = functools.lru_cache(KNOWN_PIECES)(lambda ids: llm.decode(list(ids)))

    def __call__(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token."""
        texts, start, read = [], 0, 0  # ids[start:read] are the context of what comes next
        for end in range(1, len(ids) + 1):
            known, text = self._decode(tuple(ids[start:read])), self._decode(tuple(ids[start:end]))
            unfinished = text.endswith(REPLACEMENT) and end - read < BYTES_PER_CHARACTER
            texts.append("" if unfinished and end < len(ids) else printable(text[len(known) :]))
            if not unfinished:
                start, read = read, end
        return tuple(texts)


def printable(text: str) -> str:
    """Return `text` without what could steer a terminal: control and format characters become a replacement mark.

    Newlines stay; tabs and other separators become a space.
    """
    return "".join(character if character == "\n" else _printable(character) for character in text)


@functools.lru_cache(KNOWN_PIECES)
def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if character == "\t" or category.startswith("Z"):
        return " "
    return REPLACEMENT if category.startswith("C") else character
