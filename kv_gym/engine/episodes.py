"""The engine: N episodes of one frozen LLM in lockstep, torch in, torch out.

A decision always sees `budget + evict_every` slots. `step` evicts, then the LLM reads `evict_every` tokens: those of a
recorded text in one chunk where they are known, its own choices one by one where they are not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import text_capacity
from kv_gym.engine.decoding import Decoding, surprisal_and_entropy
from kv_gym.engine.eviction import check_scores, protected_slots, share_scores, slots_to_keep
from kv_gym.engine.golden import Labels
from kv_gym.engine.reading import LOGITS_AT_ONCE, TOKENS_AT_ONCE
from kv_gym.engine.records import EpisodeRecord, Records
from kv_gym.engine.reference import Reference
from kv_gym.engine.shadow import Shadow
from kv_gym.engine.slots import SlotView
from kv_gym.engine.texts import Texts
from kv_gym.errors import BudgetError, ConfigError
from kv_gym.llm.accumulators import ACCUMULATORS
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.tokens import TokenReader, way_to_read
from kv_gym.problems.grading import UndecidedError, grade
from kv_gym.rewards import REWARD_TERMS, total_reward, weights_of

logger = logging.getLogger(__name__)


@dataclass
class StepResult:
    """What one step did, a row an episode. Rows that had ended before hold zeros.

    Attributes:
        reward: [N].
        terms: Of the reward, by name, each [N].
        terminated: The LLM stopped by itself in this step, [N] bool.
        truncated: The text reached its longest length in this step, [N] bool.
    """

    reward: Tensor
    terms: dict[str, Tensor]
    terminated: Tensor
    truncated: Tensor


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
        statistics: Attention accumulators that are kept, as `SlotView` names them; all by default.
        hindsight: Compute golden labels at every reset (one full forward over the reference).
        evictions: Remember which slots went (`records.evicted`).
        queries: How many of the newest queries an agent may ask for, at least; 32 and a window are always kept.
        label_folder: Keeps the golden labels of references that are met again (`kv_gym.engine.golden`).

    Attributes:
        texts: What is asked and written.
        records: What is summed up, and how episodes ended.
        active: Episodes that run, [N] bool.
        decision: Which decision of its episode each row stands at, from 0, [N].
        seeds: Of the episodes, [N].
    """

    def __init__(
        self, llm: FrozenLLM, config: EnvConfig, n: int, statistics: Collection[str] = tuple(ACCUMULATORS),
        hindsight: bool = False, evictions: bool = False, queries: int = 0, label_folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.llm, self.config, self.n = llm, config, n
        self.decoding = Decoding(config.temperature, config.top_p, config.top_k)
        self.cache = SlotCache(llm.shape, n, config.budget, config.evict_every, queries, statistics)
        self.reader = TokenReader(llm, self.cache, way_to_read(llm.shape.device, config.compile))
        self.shadow = Shadow(llm, n, text_capacity(config)) if config.shadow else None
        self.labels = Labels(llm, config, n, label_folder) if hindsight else None
        self.texts = Texts(llm, config, n)
        self.records = Records(llm.shape, config, n, evictions)
        device = llm.shape.device
        self.decision, self.seeds = (torch.zeros(n, dtype=torch.long, device=device) for _ in range(2))
        self.active = torch.zeros(n, dtype=torch.bool, device=device)

    @torch.no_grad()
    def reset(self, rows: Sequence[int], references: Sequence[Reference], seeds: Sequence[int]) -> None:
        """Start episodes in `rows`: read the first `budget + evict_every` tokens of their references.

        Raises:
            ConfigError: A reference is too short or its prompt too long (see `is_playable`).
            BudgetError: `protect_prompt` and a prompt that fills the budget.
        """
        config, cache = self.config, self.cache
        index = torch.tensor(list(rows), device=self.llm.shape.device)
        for row, reference, seed in zip(rows, references, seeds, strict=True):
            self._check(reference)
            self.texts.start(row, reference, seed)
            self.records.start(row)
            self.decision[row], self.seeds[row], self.active[row] = 0, seed, True
        for some in index.split(max(1, TOKENS_AT_ONCE // config.slots)):
            first = torch.arange(config.slots, device=index.device).expand(len(some), -1)
            tokens, track = self.texts.tokens[some, : config.slots], cache.statistics
            part = SlotCache(self.llm.shape, len(some), config.budget, config.evict_every, cache.n_obs, track)
            self.llm.read(tokens, first, part, last_only=True)
            part.settle()
            cache.put(some, part)
            if self.shadow is not None:
                self.shadow.reset(some, tokens)
        if self.labels is not None:
            self.labels.start(index, references)

    def drop_answers(self) -> None:
        """In replay, end the episodes whose trace has no whole window left, before the LLM writes the answer.

        For training on losses alone: the answer is written token by token and would take most of the time.
        """
        self.active &= self.texts.length + self.config.evict_every <= self.texts.forced

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

    @property
    def protected(self) -> Tensor:
        """Slots that cannot be evicted now, [N, L, H_kv, S] bool."""
        positions = self.cache.positions.transpose(0, 1)
        in_prompt = positions < self.texts.n_prompt[:, None, None, None]
        return protected_slots(positions, in_prompt, self.config.recent, self.config.n_sink, self.config.protect_prompt)

    def shown(self) -> dict[str, Tensor]:
        """Tensors that an agent sees, or can reach through what it sees, by name: it may change none of them."""
        texts = self.texts
        tables = {f"the texts' {name}": value for name, value in vars(texts).items() if isinstance(value, Tensor)}
        own = {"decision": self.decision, "seeds": self.seeds, "active": self.active}
        return {f"slots' {name}": value for name, value in self.cache.shown().items()} | tables | own

    def slots(self) -> SlotView:
        """Return what an agent sees now."""
        texts = self.texts
        view = SlotView(
            self.cache, self.protected, texts.n_prompt, texts.length, self.decision, self.seeds, texts.surprisal,
            texts.entropy, self.llm,
        )  # fmt: skip
        if self.labels is not None:
            view.hindsight = self.labels.of(view.positions, self.decision)
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
        self.records.evict(self.active.nonzero()[:, 0].tolist(), keep)
        self.cache.evict(keep.transpose(0, 1))

    @torch.no_grad()
    def write(self) -> StepResult:
        """Let the LLM read the next window of every running episode; close those that end in it."""
        rows = self.active.nonzero()[:, 0]
        start = self.texts.length[rows]
        after = start[:, None] + 1 + torch.arange(self.config.evict_every, device=rows.device)  # [R, T]
        self._read_window(rows, start)
        self.cache.settle()
        missed = None if self.shadow is None else self._read_shadow(self.shadow, rows, after)
        self.texts.length[rows] += self.config.evict_every
        self.decision[rows] += 1
        terminated, truncated = self._close(rows, after)
        window = self.texts.window(rows, after, missed, self.records.correct[rows].float())
        self.records.add(rows, window)
        terms = {term.name: torch.zeros(self.n, device=rows.device) for term in REWARD_TERMS}
        for term in REWARD_TERMS:
            terms[term.name][rows] = term.value(window, self.config).nan_to_num(
                0.0
            )  # what is not measured costs nothing
        return StepResult(total_reward(terms, weights_of(self.config)), terms, terminated, truncated)

    def _read_window(self, rows: Tensor, start: Tensor) -> None:
        """Read `evict_every` tokens a row: those whose tokens are all known in one chunk, the others one by one."""
        known = self.texts.known(rows)
        parts = []
        for chosen, read, whole in (
            (known, self._read_chunk, False),
            (~known, self._read_one_by_one, self.reader.fixed),
        ):
            index = rows[chosen]
            if len(index):
                cache = self.cache if whole or len(index) == self.n else self.cache.select(index)
                parts.append((cache, index, start[chosen], read))
        for cache, index, first, read in reversed(parts):  # the whole batch first: other rows are put back behind it
            read(cache, index, first)
            if cache is not self.cache:
                self.cache.put(index, cache)

    def _read_chunk(self, cache: SlotCache, rows: Tensor, start: Tensor) -> None:
        """Read a window of known tokens: in one forward, or in several where its logits are many."""
        texts, row = self.texts, rows[:, None]
        offsets = torch.arange(self.config.evict_every, device=start.device)
        for some in offsets.split(max(1, LOGITS_AT_ONCE // (len(rows) * self.llm.n_vocabulary))):
            positions = start[:, None] + some
            logits, after = self.llm.read(texts.tokens[row, positions], positions, cache), positions + 1
            self._choose(rows, after[:, -1], logits[:, -1])  # inside the window it is the one that is forced
            found = surprisal_and_entropy(logits, texts.tokens[row, after])
            texts.surprisal[row, after], texts.entropy[row, after] = found

    def _read_one_by_one(self, cache: SlotCache, rows: Tensor, start: Tensor) -> None:
        texts, reader = self.texts, self.reader if cache is self.cache else TokenReader(self.llm, cache)
        place = slice(None) if len(rows) == cache.n else rows
        positions = torch.zeros(cache.n, self.config.evict_every, dtype=torch.long, device=start.device)
        positions[place] = start[:, None] + torch.arange(self.config.evict_every, device=start.device)
        cache.open(positions)
        for offset in range(self.config.evict_every):
            position = start + offset
            reader.tokens[place] = texts.tokens[rows, position]
            reader.positions[place] = position
            logits = reader.read()[place]
            chosen = self._choose(rows, position + 1, logits)
            nll, spread = surprisal_and_entropy(logits, chosen)
            texts.surprisal[rows, position + 1], texts.entropy[rows, position + 1] = nll, spread

    def _choose(self, rows: Tensor, position: Tensor, logits: Tensor) -> Tensor:
        """Store and return the token at `position` [R]: the forced one where there is one, else the LLM's choice."""
        texts = self.texts
        chosen = self.decoding.choose(logits, texts.draws[rows, position])
        chosen = torch.where(position < texts.forced[rows], texts.tokens[rows, position], chosen)
        texts.tokens[rows, position] = chosen
        return chosen

    def _read_shadow(self, shadow: Shadow, rows: Tensor, after: Tensor) -> Tensor:
        """Let the full cache read the same window; return the attention it pays to evicted slots, [R, L, H_kv]."""
        texts, row, positions = self.texts, rows[:, None], after - 1
        logits, missed = shadow.read(rows, texts.tokens[row, positions], positions, self.cache.positions[:, rows])
        surprisal, entropy = surprisal_and_entropy(logits, texts.tokens[row, after])
        known = after < texts.forced[row]  # the reference already says what the full cache thought of these
        texts.surprisal_full[row, after] = torch.where(known, texts.surprisal_full[row, after], surprisal)
        texts.entropy_full[row, after] = torch.where(known, texts.entropy_full[row, after], entropy)
        return missed

    def _close(self, rows: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """End and grade the rows whose text ends in this window; return (terminated, truncated), each [N]."""
        terminated, truncated = torch.zeros_like(self.active), torch.zeros_like(self.active)
        terminated[rows], truncated[rows] = self.texts.find_end(rows, after)
        self.records.stopped |= terminated
        self.active &= ~terminated & ~truncated
        for row in (terminated | truncated).nonzero()[:, 0].tolist():
            problem = self.texts.reference(row).problem
            answer = self.texts.answer_text(row)
            try:
                self.records.correct[row] = grade(answer, problem.answer, problem.graded)
            except UndecidedError as error:
                self.records.undecided[row] = f"UndecidedError: the answer to {problem.id}: {error}"
                logger.warning("%s", self.records.undecided[row])
        return terminated, truncated

    def record(self, row: int) -> EpisodeRecord:
        """Sum up the episode in `row`."""
        return self.records.record(row, self.texts)
