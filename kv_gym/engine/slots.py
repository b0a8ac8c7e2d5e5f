"""What an agent sees at a decision: every live slot, and what happened to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_gym.errors import ConfigError
from kv_gym.llm.attention import attention_logits, unrotate, unrotation
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.frozen import FrozenLLM


@dataclass(frozen=True)
class Hindsight:
    """What only the future knows. Given to agents that declare `uses_hindsight` and to nobody else.

    Attributes:
        future: Golden Eviction's keep scores of the live slots: attention in the coming block of queries that pays them
            most, [N, L, H_kv, S].
        total: The same, summed over all coming blocks.
    """

    future: Tensor
    total: Tensor


class SlotView:
    """The live slots of N episodes at a decision. Read only; tensors are computed when asked for.

    Attributes:
        budget: Slots that will stay, per layer and KV head.
        evict_every: Slots that will go.
        protected: Slots that will stay whatever their score, [N, L, H_kv, S] bool.
        prompt_length: Tokens of the prompt, [N].
        text_length: Tokens read so far, [N].
        decision: Which decision of its episode each row stands at, from 0, [N].
        seeds: Seed of each episode, [N]; an agent's randomness must come from these and `decision`.
        hindsight: None, except for agents with `uses_hindsight`.
    """

    def __init__(
        self,
        cache: SlotCache,
        protected: Tensor,
        prompt_length: Tensor,
        text_length: Tensor,
        decision: Tensor,
        seeds: Tensor,
        token_surprisal: Tensor,
        token_entropy: Tensor,
        llm: FrozenLLM,
        hindsight: Hindsight | None = None,
    ) -> None:
        self._cache, self._state, self._llm = cache, cache, llm
        self.budget, self.evict_every = cache.budget, cache.evict_every
        self.protected = protected
        self.prompt_length, self.text_length = prompt_length, text_length
        self.decision, self.seeds = decision, seeds
        self._token_surprisal, self._token_entropy = token_surprisal, token_entropy
        self.hindsight = hindsight
        self._rows: Tensor | None = None
        self._layers = slice(None)

    def layers(self) -> Iterator[SlotView]:
        """Yield a view of each layer, L = 1, for reading.

        What is computed layer by layer stays in the processor's caches and in memory that the allocator reuses: on a
        CPU that is several times as fast as all layers at once.
        """
        if self._layers != slice(None):
            yield self
            return
        for index in range(self._cache.shape.n_layers):
            one, here = copy.copy(self), slice(index, index + 1)
            one._cache, one._layers, one._rows = self._cache.layer(index), here, None
            one.protected = self.protected[:, here]
            if self.hindsight is not None:
                one.hindsight = Hindsight(self.hindsight.future[:, here], self.hindsight.total[:, here])
            yield one

    @property
    def first_layer(self) -> int:
        """Which of the model's layers is the first of this view."""
        return self._layers.start or 0

    @property
    def shape(self) -> torch.Size:
        """[N, L, H_kv, S], the shape of keep scores."""
        return self.positions.shape

    @property
    def device(self) -> torch.device:
        """Where all tensors live."""
        return self._cache.shape.device

    @property
    def keys(self) -> Tensor:
        """Keys after RoPE, [N, L, H_kv, S, D]."""
        return self._cache.keys.transpose(0, 1)

    @property
    def values(self) -> Tensor:
        """[N, L, H_kv, S, D]."""
        return self._cache.values.transpose(0, 1)

    @property
    def positions(self) -> Tensor:
        """Absolute position of each slot, [N, L, H_kv, S]; slots are in time order."""
        return self._cache.positions.transpose(0, 1)

    @property
    def age(self) -> Tensor:
        """Tokens since each slot was written; the newest has age 0, [N, L, H_kv, S]."""
        return self.text_length[:, None, None, None] - 1 - self.positions

    @property
    def in_prompt(self) -> Tensor:
        """[N, L, H_kv, S] bool."""
        return self.positions < self.prompt_length[:, None, None, None]

    def attention(self, n_queries: int | None = None) -> Tensor:
        """Attention of the newest queries over the live slots, [N, L, H_kv, group, T, S] float32, rows sum to 1.

        Args:
            n_queries: T; default `evict_every`. There are 32 or `evict_every`, the larger; an agent with an attribute
                `n_obs` gets as many as that says. Queries from before the last eviction are renormalised over what is
                left; queries that do not exist are zero. Ask for the longest first: shorter ones are slices of it.

        Raises:
            ConfigError: More than are kept.
        """
        wanted = self.evict_every if n_queries is None else self._kept(n_queries)
        if self._rows is None or self._rows.shape[-2] < wanted:
            self._rows = self._cache.rows(wanted).transpose(0, 1)
        return self._rows[..., -wanted:, :]

    def logits(self, n_queries: int) -> tuple[Tensor, Tensor]:
        """Scaled attention logits of the newest queries, and which slots each may see.

        Raises:
            ConfigError: More queries than are kept; see `attention`.

        Returns:
            ([N, L, H_kv, group, T, S] float32, bool broadcastable to it).
        """
        cache = self._cache
        n_queries = self._kept(n_queries)
        logits = attention_logits(cache.queries[..., cache.n_obs - n_queries :, :], cache.keys, cache.scale)
        return logits.transpose(0, 1), cache.seen_by(n_queries).transpose(0, 1)

    def seen(self, n_queries: int) -> Tensor:
        """Which live slots each of the newest queries may see, [N, L, H_kv, T, S] bool."""
        return self._cache.seen_by(self._kept(n_queries)).transpose(0, 1)[:, :, :, 0]

    def query_positions(self, n_queries: int) -> Tensor:
        """Positions of the newest queries (at most `n_obs`), -1 for those that do not exist, [N, T]."""
        return self._cache.query_positions[:, -n_queries:]

    def unrotated_queries(self, n_queries: int) -> Tensor:
        """The newest queries (at most `n_obs`) as they were before RoPE, [N, L, H_q, T, D] float32."""
        queries = self._cache.queries[..., -n_queries:, :].transpose(0, 1).float()
        cos, sin = unrotation(*self.rotary(self.query_positions(n_queries).clamp_min(0)))
        return unrotate(queries, cos[:, None, None], sin[:, None, None])

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of RoPE at positions [N, T], each [N, T, R] float32; R is D, or less for partial RoPE."""
        return self._llm.rotary(positions)

    @property
    def output_weights(self) -> Tensor:
        """The output projection of each query head, [L, H_kv, group, D, hidden]."""
        return self._llm.output_weights[self._layers]

    @property
    def scale(self) -> float:
        """Factor on the logits."""
        return self._cache.scale

    @property
    def total_attention(self) -> Tensor:
        """Sum of the attention since each slot was written, [N, L, H_kv, group, S]."""
        return self._statistic("total_attention")

    @property
    def decayed_attention(self) -> Tensor:
        """The same, decayed per query (see `kv_gym.llm.statistics.DECAY`), [N, L, H_kv, group, S]."""
        return self._statistic("decayed_attention")

    @property
    def last_attended(self) -> Tensor:
        """Position of the last query that paid more than average attention, -1 before the first, [N, L, H_kv, S]."""
        return self._statistic("last_attended")

    @property
    def longest_gap(self) -> Tensor:
        """Longest distance between two such queries, [N, L, H_kv, S]."""
        return self._statistic("longest_gap")

    def _statistic(self, name: str) -> Tensor:
        kept = self._cache.statistics
        if name not in kept:
            raise ConfigError(
                f"{name} was asked for and is not kept. Give the agent's class an attribute needs = ({name!r},), with "
                "all that it reads."
            )
        return kept[name].transpose(0, 1)

    @property
    def surprisal(self) -> Tensor:
        """-log p of each slot's token when it was written, nats, [N, L, H_kv, S]."""
        return self._per_slot(self._token_surprisal)

    @property
    def entropy(self) -> Tensor:
        """Entropy of the prediction of each slot's token, nats, [N, L, H_kv, S]."""
        return self._per_slot(self._token_entropy)

    def recent(self, values: str, n: int) -> Tensor:
        """Mean `surprisal` or `entropy` of the newest n tokens, [N]."""
        table = self._token_surprisal if values == "surprisal" else self._token_entropy
        index = self.text_length[:, None] - 1 - torch.arange(n, device=self.device)
        return table.gather(1, index.clamp_min(0)).mean(1)

    def carry(self, name: str, fill: float = 0.0) -> Tensor:
        """Per-slot state of your own, [N, L, H_kv, S] float32, to be changed in place.

        It moves with its slot at evictions; new slots and new episodes hold `fill`.
        """
        return self._state.carry(name, fill)[self._layers].transpose(0, 1)

    def memory(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Per-episode state of your own, [N, L, *shape] float32, to be changed in place; zero in new episodes."""
        return self._state.memory(name, shape)[self._layers].transpose(0, 1)

    def _kept(self, n_queries: int) -> int:
        """Return `n_queries` if so many are kept.

        Raises:
            ConfigError: Fewer are.
        """
        if n_queries > self._cache.n_obs:
            raise ConfigError(
                f"{n_queries} queries were asked for; the cache keeps {self._cache.n_obs}. Give the agent an attribute "
                f"n_obs = {n_queries}, and it gets as many."
            )
        return n_queries

    def _per_slot(self, table: Tensor) -> Tensor:
        n = len(table)
        return table.gather(1, self.positions.reshape(n, -1)).reshape(self.positions.shape)
