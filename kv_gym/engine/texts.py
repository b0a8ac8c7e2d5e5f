"""The texts of N episodes: what was asked and written, and what both caches think of each token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import text_capacity
from kv_gym.engine.decoding import uniform_draws
from kv_gym.engine.reference import Reference, answer_length, answer_start
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.rewards import Window

ENTROPY_SHARE = 0.8
"""Share of an episode's tokens that count as low-entropy (ForesightKV); for the reward, where no `entropy_threshold` is
given."""


class Texts:
    """A table of texts, a row an episode.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.
        n: Episodes, N.

    Attributes:
        tokens: Token ids, [N, C], C as `text_capacity` says.
        draws: Random numbers that sampled tokens are chosen by, [N, C] float64.
        surprisal: -log p of each token with evictions, nats, [N, C].
        entropy: Entropy of its prediction, nats, [N, C].
        surprisal_full, entropy_full: The same under the full cache.
        length: Tokens read, [N]; the next one, tokens[length], is known but unread.
        n_prompt: Tokens of the prompt, [N].
        forced: Tokens that are given; the LLM chooses those from here on, [N].
        end: Where the text ends, or must end, [N].
        stop_ids: Tokens that end a text.
        references: What each row's episode starts from.
    """

    def __init__(self, llm: FrozenLLM, config: EnvConfig, n: int) -> None:
        self.llm, self.config = llm, config
        device, capacity = llm.shape.device, text_capacity(config)

        def table(dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(n, capacity, dtype=dtype, device=device)

        def column(dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=device)

        self.tokens, self.draws = table(torch.long), table(torch.float64)
        self.surprisal, self.entropy = table(), table()
        self.surprisal_full, self.entropy_full = table(), table()
        self.length, self.n_prompt, self.forced, self.end = (column() for _ in range(4))
        self._entropy_below, self._entropy_high = column(torch.float32), column(torch.float32)
        self.stop_ids = torch.tensor(llm.stop_ids, device=device)
        self.references: list[Reference | None] = [None] * n

    def start(self, row: int, reference: Reference, seed: int) -> None:
        """Write what is known of the episode: the prompt, what comes before the first eviction, in replay the trace.

        A prompt longer than a decision's slots is read in windows with evictions, like a trace.
        """
        config = self.config
        known = max(config.slots + 1, reference.n_prompt)
        limit = reference.n_prompt + config.max_new_tokens
        if config.mode == "replay":
            known = max(known, answer_start(self.llm, reference))
            limit = known + config.max_answer_tokens
        self.tokens[row] = 0
        self.tokens[row, :known] = reference.tokens[:known]
        for table, values in (
            (self.surprisal, reference.surprisal), (self.surprisal_full, reference.surprisal),
            (self.entropy, reference.entropy), (self.entropy_full, reference.entropy),
        ):  # fmt: skip
            table[row] = 0
            table[row, :known] = values[:known]
        self.draws[row] = uniform_draws(seed, self.draws.shape[1]).to(self.draws)
        self.n_prompt[row], self.forced[row], self.end[row] = reference.n_prompt, known, limit
        self.length[row] = config.slots
        self._entropy_high[row] = reference.entropy_percentile(ENTROPY_SHARE)
        threshold = config.entropy_threshold
        self._entropy_below[row] = self._entropy_high[row] if threshold is None else threshold
        self.references[row] = reference

    def reference(self, row: int) -> Reference:
        """What the episode in `row` starts from."""
        reference = self.references[row]
        assert reference is not None, f"no episode in row {row}"
        return reference

    def known(self, rows: Tensor) -> Tensor:
        """Rows whose next window is known from its first to its last token, [R] bool."""
        return self.forced[rows] >= self.length[rows] + self.config.evict_every

    def find_end(self, rows: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Mark where texts end with a token of this window.

        Args:
            rows: [R].
            after: Positions that the window's tokens predict, [R, T].

        Returns:
            (the LLM stopped by itself [R] bool, the text reached its longest length [R] bool).
        """
        end = self.end[rows]
        stops = torch.isin(self.tokens[rows[:, None], after], self.stop_ids) & (after < end[:, None])
        stops &= after >= self.forced[rows][:, None]  # a chat template ends the user's turn with the same token
        stopped = stops.any(-1)
        first = torch.where(stops, after, self.tokens.shape[1]).amin(-1)
        self.end[rows] = torch.where(stopped, first + 1, end)
        return stopped, ~stopped & (after[:, -1] + 1 >= end)

    def window(self, rows: Tensor, after: Tensor, missed: Tensor | None, score: Tensor) -> Window:
        """What the step that predicted the tokens at `after` [R, T] came to.

        Args:
            rows: [R].
            after: Positions.
            missed: Attention that evicted slots missed, [R, L, H_kv]; None without a shadow.
            score: Of the answers of the rows that ended, [R].
        """
        row, replay = rows[:, None], self.config.mode == "replay"
        counted = (after < self.end[row]) & (after >= self.n_prompt[row])
        if replay:  # the answer is the LLM's own text; what is measured is the trace
            counted &= after < self.forced[row]
        if missed is None:
            missed = torch.full((len(rows), 1, 1), math.nan, device=after.device)
            counted &= replay
        entropy = self.entropy_full[row, after]
        return Window(
            loss=self.surprisal[row, after],
            loss_full=self.surprisal_full[row, after],
            entropy_full=entropy,
            counted=counted,
            sure=counted & (entropy <= self._entropy_below[row]),
            high=counted & (entropy > self._entropy_high[row]),
            missed=missed,
            score=score,
        )

    def losses(self, row: int) -> Tensor:
        """-log p of each token of the replayed trace behind the first eviction, nats, [T]."""
        first = max(self.config.slots + 1, int(self.n_prompt[row]))
        return self.surprisal[row, first : int(self.forced[row])].clone()

    def generated(self, row: int) -> Tensor:
        """Token ids that the episode in `row` has generated so far (its reference's first ones included)."""
        last = min(int(self.end[row]), int(self.length[row]) + 1)
        return self.tokens[row, int(self.n_prompt[row]) : last]

    def text(self, row: int) -> str:
        """What the episode in `row` has written so far."""
        return self.llm.decode(self.generated(row))

    def answer_text(self, row: int) -> str:
        """What is graded: the text; behind a recorded trace, up to the brace that closes the box it left open."""
        if not self.reference(row).problem.trace:
            return self.text(row)
        first, last = int(self.n_prompt[row]), int(self.end[row])
        forced = int(self.forced[row])
        answer = self.tokens[row, forced:last]
        return self.llm.decode(self.tokens[row, first : forced + answer_length(self.llm, answer)])


def reference_window(reference: Reference, config: EnvConfig, end: int) -> Window:
    """What an episode without evictions comes to, as one window of one row: its tokens up to `end` are counted."""
    measured = slice(max(config.slots + 1, reference.n_prompt), end)
    loss, entropy = reference.surprisal[None, measured].double(), reference.entropy[None, measured]
    high = reference.entropy_percentile(ENTROPY_SHARE)
    below = high if config.entropy_threshold is None else config.entropy_threshold
    return Window(
        loss=loss,
        loss_full=loss,
        entropy_full=entropy,
        counted=torch.ones_like(entropy, dtype=torch.bool),
        sure=entropy <= below,
        high=entropy > high,
        missed=torch.zeros(1, 1, 1, device=loss.device),
        score=torch.full((1,), reference.correct, device=loss.device),
    )
