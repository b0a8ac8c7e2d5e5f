"""The engine: N episodes of one frozen LLM in lockstep, torch in, torch out.

A decision always sees `budget + evict_every` slots. `step` evicts, then the LLM reads `evict_every` tokens: those of a
recorded text in one chunk where they are known, its own choices one by one where they are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.decoding import Decoding, surprisal_and_entropy, uniform_draws
from kv_gym.engine.eviction import check_scores, others, protected_slots, share_scores, slots_to_keep
from kv_gym.engine.golden import block_attention, coming_attention
from kv_gym.engine.reference import Reference, answer_length, answer_start
from kv_gym.engine.rewards import attention_spike, loss_spike, total_reward
from kv_gym.engine.shadow import Shadow
from kv_gym.engine.slots import Hindsight, SlotView
from kv_gym.errors import BudgetError, ConfigError
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.loading import FrozenLLM
from kv_gym.problems.grading import grade

ENTROPY_SHARE = 0.8
"""Share of an episode's tokens that count as low-entropy (ForesightKV); for the reward, where no `entropy_threshold` is
given."""

SUMS = (
    "loss", "loss_full", "tokens", "loss_high", "loss_high_full", "tokens_high", "loss_spike", "attention_spike",
    "missed_attention", "steps",
)  # fmt: skip


@dataclass
class StepResult:
    """What one step did, a row an episode. Rows that had ended before hold zeros.

    Attributes:
        reward: [N].
        terms: `correct`, `loss_spike`, `attention_spike`, each [N].
        terminated: The LLM stopped by itself in this step, [N] bool.
        truncated: The text reached its longest length in this step, [N] bool.
    """

    reward: Tensor
    terms: dict[str, Tensor]
    terminated: Tensor
    truncated: Tensor


@dataclass
class EpisodeRecord:
    """What is known of one episode at its end.

    Attributes:
        correct: Score of the answer, 0 to 1; most problems know right and wrong only.
        stop: `eos` or `length`.
        n_tokens: Generated tokens.
        n_steps: Evictions.
        loss_spike: Mean over steps, nats squared; NaN without a shadow.
        attention_spike: Mean over steps, share.
        missed_attention: Mean over steps, layers and heads, share.
        loss: Mean loss of the tokens predicted after the first eviction, nats.
        loss_full: The same under the full cache.
        loss_low, loss_low_full, loss_high, loss_high_full: The same of the four fifths of the tokens with the lowest
            full-cache entropy, and of the others.
        tokens_sha256: Hash of the generated token ids.
        actions_sha256: Hash of the kept slots, step by step.
        text: What was generated.
        evicted: Slots that went, [steps, L, H_kv, evict_every] int16, where the batch remembers them.
    """

    correct: float
    stop: str
    n_tokens: int
    n_steps: int
    loss_spike: float
    attention_spike: float
    missed_attention: float
    loss: float
    loss_full: float
    loss_low: float
    loss_low_full: float
    loss_high: float
    loss_high_full: float
    tokens_sha256: str
    actions_sha256: str
    text: str
    evicted: Tensor | None = None


def text_capacity(config: EnvConfig) -> int:
    """Longest text of an episode, tokens, with room for the last window."""
    return config.max_prompt_tokens + config.max_new_tokens + config.max_answer_tokens + 2 * config.evict_every


def is_playable(reference: Reference, config: EnvConfig) -> bool:
    """Whether a problem is part of an env: its prompt fits and its reference leaves at least two windows to play."""
    fits = reference.n_prompt <= config.max_prompt_tokens
    return fits and len(reference) >= config.slots + 2 * config.evict_every


class EpisodeBatch:
    """N episodes in lockstep. Rows are independent: each may start and end at any step.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.
        n: Episodes, N.
        statistics: Keep the attention accumulators (`SlotView.total_attention` and the like).
        hindsight: Compute golden labels at every reset (one full forward over the reference).
        evictions: Remember which slots went (`evicted`).
    """

    def __init__(
        self, llm: FrozenLLM, config: EnvConfig, n: int, statistics: bool = True, hindsight: bool = False,
        evictions: bool = False,
    ) -> None:  # fmt: skip
        self.llm, self.config, self.n = llm, config, n
        self.decoding = Decoding(config.temperature, config.top_p, config.top_k)
        device, capacity = llm.shape.device, text_capacity(config)
        self.cache = SlotCache(llm.shape, n, config.budget, config.evict_every, track=statistics)
        self.shadow = Shadow(llm, n, capacity) if config.shadow else None
        self._hindsight = hindsight
        n_blocks = max(0, -(-(capacity - config.slots) // config.evict_every))
        heads = (n, llm.shape.n_layers, llm.shape.n_kv_heads)
        self.blocks = torch.zeros(*heads, capacity if hindsight else 0, n_blocks, device=device)
        self.stop_ids = torch.tensor(llm.stop_ids, device=device)

        def table(dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(n, capacity, dtype=dtype, device=device)

        def column(dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=device)

        self.tokens, self.draws = table(torch.long), table(torch.float64)
        self.surprisal, self.entropy = table(), table()
        self.surprisal_full, self.entropy_full = table(), table()
        self.n_prompt, self.forced, self.end, self.decision, self.seeds = (column() for _ in range(5))
        self.length = column()  # tokens read; the next one, tokens[length], is known but unread
        self.entropy_below, self.entropy_high = column(torch.float32), column(torch.float32)
        self.active = column(torch.bool)
        self.sums = {name: column(torch.float64) for name in SUMS}
        self.stopped, self.correct = column(torch.bool), column(torch.float64)
        self.references: list[Reference | None] = [None] * n
        self._actions = [hashlib.sha256() for _ in range(n)]
        self._evicted: list[list[Tensor]] | None = [[] for _ in range(n)] if evictions else None

    @torch.no_grad()
    def reset(self, rows: Sequence[int], references: Sequence[Reference], seeds: Sequence[int]) -> None:
        """Start episodes in `rows`: read the first `budget + evict_every` tokens of their references.

        Raises:
            ConfigError: A reference is too short or its prompt too long (see `is_playable`).
            BudgetError: `protect_prompt` and a prompt that fills the budget.
        """
        config, index = self.config, torch.tensor(list(rows), device=self.llm.shape.device)
        for row, reference, seed in zip(rows, references, seeds, strict=True):
            self._check(reference)
            self._fill_row(row, reference, seed)
        first = torch.arange(config.slots, device=index.device).expand(len(index), -1)
        part = SlotCache(
            self.llm.shape,
            len(index),
            config.budget,
            config.evict_every,
            self.cache.n_obs,
            self.cache.statistics is not None,
        )
        self.llm.read(self.tokens[index, : config.slots], first, part, last_only=True)
        part.settle()
        self.cache.put(index, part)
        if self.shadow is not None:
            self.shadow.reset(index, self.tokens[index, : config.slots], first)
        if self._hindsight:
            self._look_ahead(index, references)

    def drop_answers(self) -> None:
        """In replay, end the episodes whose trace has no whole window left, before the LLM writes the answer.

        For training on losses alone: the answer is written token by token and would take most of the time.
        """
        self.active &= self.length + self.config.evict_every <= self.forced

    def _check(self, reference: Reference) -> None:
        config, problem = self.config, reference.problem
        if not is_playable(reference, config):
            raise ConfigError(
                f"problem {problem.id} has a prompt of {reference.n_prompt} and a reference of {len(reference)} "
                f"tokens; this env plays prompts up to max_prompt_tokens={config.max_prompt_tokens} and references "
                f"from budget + 3 * evict_every = {config.slots + 2 * config.evict_every} tokens. Choose another "
                "problem or budget."
            )
        if problem.trace and config.mode == "generate":
            raise ConfigError(f"problem {problem.id} is a recorded trace, which is replayed. Use mode='replay'.")
        protected = reference.n_prompt + config.recent
        if config.protect_prompt and protected >= config.budget:
            raise BudgetError(
                f"budget={config.budget} leaves nothing to choose on {problem.id}: its prompt of {reference.n_prompt} "
                f"slots + n_recent={config.recent} are protected. Use budget >= {protected + 1} or "
                "protect_prompt=False."
            )

    def _fill_row(self, row: int, reference: Reference, seed: int) -> None:
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
        self.decision[row], self.seeds[row], self.length[row] = 0, seed, config.slots
        self.entropy_high[row] = reference.entropy_percentile(ENTROPY_SHARE)
        threshold = config.entropy_threshold
        self.entropy_below[row] = self.entropy_high[row] if threshold is None else threshold
        self.active[row], self.stopped[row], self.correct[row] = True, False, 0.0
        for values in self.sums.values():
            values[row] = 0
        self.references[row] = reference
        self._actions[row] = hashlib.sha256()
        if self._evicted is not None:
            self._evicted[row] = []

    def _look_ahead(self, index: Tensor, references: Sequence[Reference]) -> None:
        lengths = torch.tensor([len(r) for r in references], device=index.device)
        tokens = torch.zeros(len(references), int(lengths.max()), dtype=torch.long, device=index.device)
        for i, reference in enumerate(references):
            tokens[i, : len(reference)] = reference.tokens
        blocks = block_attention(self.llm, tokens, lengths, self.config.slots, self.config.evict_every)
        self.blocks[index] = 0
        longest, n_blocks = blocks.shape[-2:]
        self.blocks[index, :, :, :longest, :n_blocks] = blocks

    @property
    def protected(self) -> Tensor:
        """Slots that cannot be evicted now, [N, L, H_kv, S] bool."""
        positions = self.cache.positions.transpose(0, 1)
        in_prompt = positions < self.n_prompt[:, None, None, None]
        return protected_slots(positions, in_prompt, self.config.recent, self.config.n_sink, self.config.protect_prompt)

    def slots(self) -> SlotView:
        """Return what an agent sees now."""
        view = SlotView(
            self.cache,
            self.protected,
            self.n_prompt,
            self.length,
            self.decision,
            self.seeds,
            self.surprisal,
            self.entropy,
            self.llm,
        )
        if self._hindsight:
            coming = coming_attention(self.blocks, view.positions, self.decision)
            view.hindsight = Hindsight(coming.amax(-1), coming.sum(-1))
        return view

    @torch.no_grad()
    def step(self, scores: Tensor) -> StepResult:
        """Evict the lowest of `scores` [N, L, H_kv, S], then let the LLM read `evict_every` tokens.

        Raises:
            ScoreError: Wrong shape, or NaN.
        """
        check_scores(scores, self.cache.positions.transpose(0, 1).shape)
        scores = share_scores(scores, self.config.shared)
        self.evict(slots_to_keep(scores, self.protected, self.config.evict_every))
        return self.write()

    def evict(self, keep: Tensor) -> None:
        """Keep the slots `keep` [N, L, H_kv, budget], in time order."""
        gone = None if self._evicted is None else others(keep, self.config.slots).short().cpu()
        for row in self.active.nonzero()[:, 0].tolist():
            self._actions[row].update(keep[row].to(torch.int32).cpu().numpy().tobytes())
            if self._evicted is not None and gone is not None:
                self._evicted[row].append(gone[row].clone())
        self.cache.evict(keep.transpose(0, 1))

    def evicted(self, row: int) -> Tensor:
        """Slots that went in each step of the episode in `row`, ascending, [steps, L, H_kv, evict_every] int16."""
        assert self._evicted is not None, "made without evictions=True"
        shape = self.llm.shape
        empty = torch.zeros(0, shape.n_layers, shape.n_kv_heads, self.config.evict_every, dtype=torch.short)
        return torch.stack(self._evicted[row]) if self._evicted[row] else empty

    @torch.no_grad()
    def write(self) -> StepResult:
        """Let the LLM read the next window of every running episode; close those that end in it."""
        rows, device = self.active.nonzero()[:, 0], self.length.device
        start = self.length[rows]
        self._read_window(rows, start)
        self.cache.settle()
        after = start[:, None] + 1 + torch.arange(self.config.evict_every, device=device)  # predicted positions, [R, T]
        missed = self._read_shadow(rows, after)
        self.length[rows] += self.config.evict_every
        self.decision[rows] += 1
        terminated, truncated = self._find_end(rows, after)
        terms = {name: torch.zeros(self.n, device=device) for name in ("correct", "loss_spike", "attention_spike")}
        for name, values in self._spikes(rows, after, missed).items():
            terms[name][rows] = values
        for row in (terminated | truncated).nonzero()[:, 0].tolist():
            reference = self.references[row]
            assert reference is not None
            problem = reference.problem
            terms["correct"][row] = self.correct[row] = grade(self.answer_text(row), problem.answer, problem.graded)
        weights = {
            "correct": self.config.w_correct,
            "loss_spike": self.config.w_loss,
            "attention_spike": self.config.w_attention,
        }
        return StepResult(total_reward(terms, weights), terms, terminated, truncated)

    def _read_window(self, rows: Tensor, start: Tensor) -> None:
        """Read `evict_every` tokens a row: those whose tokens are all known in one chunk, the others one by one."""
        known = self.forced[rows] >= start + self.config.evict_every
        parts = []
        for chosen, read in ((known, self._read_chunk), (~known, self._read_one_by_one)):
            index = rows[chosen]
            if len(index):
                parts.append(
                    (self.cache if len(index) == self.n else self.cache.select(index), index, start[chosen], read)
                )
        for cache, index, first, read in parts:
            read(cache, index, first)
            if cache is not self.cache:
                self.cache.put(index, cache)

    def _read_chunk(self, cache: SlotCache, rows: Tensor, start: Tensor) -> None:
        positions = start[:, None] + torch.arange(self.config.evict_every, device=start.device)
        logits = self.llm.read(self.tokens[rows[:, None], positions], positions, cache)
        self._record(rows, start + self.config.evict_every, logits[:, -1])
        row, after = rows[:, None], positions + 1
        self.surprisal[row, after], self.entropy[row, after] = surprisal_and_entropy(logits, self.tokens[row, after])

    def _read_one_by_one(self, cache: SlotCache, rows: Tensor, start: Tensor) -> None:
        for offset in range(self.config.evict_every):
            position = start + offset
            logits = self.llm.read(self.tokens[rows, position][:, None], position[:, None], cache, last_only=True)[:, 0]
            chosen = self._record(rows, position + 1, logits)
            nll, spread = surprisal_and_entropy(logits, chosen)
            self.surprisal[rows, position + 1], self.entropy[rows, position + 1] = nll, spread

    def _record(self, rows: Tensor, position: Tensor, logits: Tensor) -> Tensor:
        """Store and return the token at `position` [R]: the forced one where there is one, else the LLM's choice."""
        chosen = self.decoding.choose(logits, self.draws[rows, position])
        chosen = torch.where(position < self.forced[rows], self.tokens[rows, position], chosen)
        self.tokens[rows, position] = chosen
        return chosen

    def _read_shadow(self, rows: Tensor, after: Tensor) -> Tensor | None:
        """Let the full cache read the same window; return the attention it pays to evicted slots, [R, L, H_kv]."""
        if self.shadow is None:
            return None
        row, positions = rows[:, None], after - 1
        logits, missed = self.shadow.read(rows, self.tokens[row, positions], positions, self.cache.positions[:, rows])
        surprisal, entropy = surprisal_and_entropy(logits, self.tokens[row, after])
        known = after < self.forced[row]  # the reference already says what the full cache thought of these
        self.surprisal_full[row, after] = torch.where(known, self.surprisal_full[row, after], surprisal)
        self.entropy_full[row, after] = torch.where(known, self.entropy_full[row, after], entropy)
        return missed

    def _find_end(self, rows: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Close the rows whose text ends with a token of this window; return (terminated, truncated), each [N]."""
        end = self.end[rows]
        stops = torch.isin(self.tokens[rows[:, None], after], self.stop_ids) & (after < end[:, None])
        stops &= after >= self.forced[rows][:, None]  # a chat template ends the user's turn with the same token
        first = torch.where(stops, after, self.tokens.shape[1]).amin(-1)
        terminated, truncated = torch.zeros_like(self.active), torch.zeros_like(self.active)
        terminated[rows] = stops.any(-1)
        truncated[rows] = ~stops.any(-1) & (after[:, -1] + 1 >= end)
        self.end[rows] = torch.where(stops.any(-1), first + 1, end)
        self.stopped |= terminated
        self.active &= ~terminated & ~truncated
        return terminated, truncated

    def _spikes(self, rows: Tensor, after: Tensor, missed: Tensor | None) -> dict[str, Tensor]:
        """Loss and attention spikes of this window, each [R]; adds to the running sums."""
        row, replay = rows[:, None], self.config.mode == "replay"
        counted = (after < self.end[row]) & (after >= self.n_prompt[row])
        if replay:  # the answer is the LLM's own text; what is measured is the trace
            counted &= after < self.forced[row]
        if missed is None:
            missed = torch.zeros(len(rows), 1, 1, device=after.device)
            counted &= replay
        loss, loss_full = self.surprisal[row, after], self.surprisal_full[row, after]
        entropy = self.entropy_full[row, after]
        watched, high = counted & (entropy <= self.entropy_below[row]), counted & (entropy > self.entropy_high[row])
        terms = {
            "loss_spike": loss_spike(loss - loss_full, watched, self.config.loss_threshold, self.config.loss_cap),
            "attention_spike": attention_spike(missed, self.config.attention_threshold),
        }
        sums = {
            "loss": (loss * counted).sum(-1),
            "loss_full": (loss_full * counted).sum(-1),
            "tokens": counted.sum(-1),
            "loss_high": (loss * high).sum(-1),
            "loss_high_full": (loss_full * high).sum(-1),
            "tokens_high": high.sum(-1),
            "missed_attention": missed.mean((-2, -1)),
            "steps": torch.ones_like(terms["loss_spike"]),
            **terms,
        }
        for name, values in sums.items():
            self.sums[name][rows] += values
        return terms

    def generated(self, row: int) -> Tensor:
        """Token ids that the episode in `row` has generated so far (its reference's first ones included)."""
        last = min(int(self.end[row]), int(self.length[row]) + 1)
        return self.tokens[row, int(self.n_prompt[row]) : last]

    def text(self, row: int) -> str:
        """What the episode in `row` has written so far."""
        return self.llm.decode(self.generated(row))

    def answer_text(self, row: int) -> str:
        """What is graded: the text; behind a recorded trace, up to the brace that closes the box it left open."""
        reference = self.references[row]
        assert reference is not None
        if not reference.problem.trace:
            return self.text(row)
        first, last = int(self.n_prompt[row]), int(self.end[row])
        forced = int(self.forced[row])
        answer = self.tokens[row, forced:last]
        return self.llm.decode(self.tokens[row, first : forced + answer_length(self.llm, answer)])

    def record(self, row: int) -> EpisodeRecord:
        """Sum up the episode in `row`."""
        sums = {name: float(values[row]) for name, values in self.sums.items()}
        steps = max(sums["steps"], 1) if sums["tokens"] > 0 else 0
        n_high, n_low = sums["tokens_high"], sums["tokens"] - sums["tokens_high"]
        sums["loss_low"] = sums["loss"] - sums["loss_high"]
        sums["loss_low_full"] = sums["loss_full"] - sums["loss_high_full"]
        generated = self.generated(row)

        def mean(name: str, count: float) -> float:
            return sums[name] / count if count else float("nan")

        return EpisodeRecord(
            correct=float(self.correct[row]),
            stop="eos" if self.stopped[row] else "length",
            n_tokens=len(generated),
            n_steps=int(sums["steps"]),
            loss_spike=mean("loss_spike", steps),
            attention_spike=mean("attention_spike", steps),
            missed_attention=mean("missed_attention", steps),
            loss=mean("loss", sums["tokens"]),
            loss_full=mean("loss_full", sums["tokens"]),
            loss_low=mean("loss_low", n_low),
            loss_low_full=mean("loss_low_full", n_low),
            loss_high=mean("loss_high", n_high),
            loss_high_full=mean("loss_high_full", n_high),
            tokens_sha256=hashlib.sha256(generated.int().cpu().numpy().tobytes()).hexdigest(),
            actions_sha256=self._actions[row].hexdigest(),
            text=self.text(row),
            evicted=None if self._evicted is None else self.evicted(row),
        )
