"""The two caches. Only this file writes keys and values.

`SlotCache` evicts: every layer and KV head holds the same number of slots, kept in time order, with their absolute
positions. `FullCache` never evicts and indexes slots by position, so rows of different length share it.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from kv_gym.llm.accumulators import ACCUMULATORS
from kv_gym.llm.attention import attention_rows, newest_rows
from kv_gym.llm.statistics import accumulate, new_statistics

Observer = Callable[[int, Tensor, Tensor, float], None]
FIRST = 1024
"""Tokens that a full cache has room for at first; texts may be allowed to grow to many times that."""
MOST_SETTLED = 2**26
"""Bytes of a window's attention in all layers that are kept for agents; where it is more, they compute it again."""


@dataclass(frozen=True)
class CacheShape:
    """Sizes that a model gives its cache, and where it lives."""

    n_layers: int
    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.n_q_heads // self.n_kv_heads

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot in all layers and KV heads: a key and a value each."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * self.dtype.itemsize


class _Layer(CacheLayerMixin):
    """One layer's door into its cache; transformers calls `update` right before attention."""

    is_sliding = False

    def __init__(self, cache: SlotCache | FullCache, index: int) -> None:
        super().__init__()
        self._cache, self.index = weakref.ref(cache), index  # a circle would keep its memory until somebody looks
        self.is_initialized = True

    @property
    def cache(self) -> SlotCache | FullCache:
        """The cache that it belongs to."""
        found = self._cache()
        assert found is not None, "a layer is used by its cache"
        return found

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: memory is the cache's affair."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.cache.write(self.index, key_states, value_states)

    # The frozen LLM passes positions and visibility itself; transformers only asks these for masks that nobody reads.
    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.cache.length, 0

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return self.cache.length

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1


class SlotCache(Cache):
    """A cache of `budget + evict_every` slots per layer and KV head, emptied to `budget` by `evict`.

    Args:
        shape: Sizes of the model.
        n: Episodes in the batch, N.
        budget: Slots that stay after an eviction.
        evict_every: Slots that are evicted at once.
        n_obs: Newest queries that are kept for recomputing attention rows; at least 32 and `evict_every`.
        track: Accumulators that are kept (`kv_gym.llm.statistics`). Any costs one attention recomputation per eviction.

    Attributes:
        positions: Absolute position of each slot, [L, N, H_kv, S].
        queries: The newest `n_obs` queries after RoPE, [L, N, H_q, n_obs, D].
        query_positions: Their positions, -1 where there is none yet, [N, n_obs].
        statistics: The accumulators by name, over [L, N].
        carried: Per-slot state of agents by name, [L, N, H_kv, S]; gathered at evictions, filled anew for new slots.
        memories: Per-episode state of agents by name, [L, N, ...]; zero for new episodes.
        length: Slots filled so far, the same everywhere.
    """

    def __init__(
        self, shape: CacheShape, n: int, budget: int, evict_every: int, n_obs: int | None = None,
        track: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.shape, self.n, self.budget, self.evict_every = shape, n, budget, evict_every
        self.slots = budget + evict_every
        self.n_obs = max(32, evict_every, n_obs or 0)
        super().__init__(layers=[_Layer(self, index) for index in range(shape.n_layers)])
        kv = (shape.n_layers, n, shape.n_kv_heads, self.slots)
        options: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
        self.keys = torch.zeros(*kv, shape.head_dim, **options)
        self.values = torch.zeros(*kv, shape.head_dim, **options)
        self.positions = torch.zeros(kv, dtype=torch.long, device=shape.device)
        self.queries = torch.zeros(shape.n_layers, n, shape.n_q_heads, self.n_obs, shape.head_dim, **options)
        self.query_positions = torch.full((n, self.n_obs), -1, device=shape.device)
        # A compiler writes into parts of which it does not know that they are parts; into a slice it copies the whole.
        self._layer_keys, self._layer_values, self._layer_queries = (
            list(tensor.unbind()) for tensor in (self.keys, self.values, self.queries)
        )
        self.statistics = new_statistics(track, kv[:2], shape.n_kv_heads, shape.group, self.slots, shape.device)
        self.carried: dict[str, Tensor] = {}
        self._fills: dict[str, float] = {}
        self.memories: dict[str, Tensor] = {}
        self.scale = 1.0
        self.length = 0
        self._new = 0  # tokens in the forward under way
        self._one_by_one = False  # whether a window is read token by token; then
        self._cursor = torch.zeros(1, dtype=torch.long, device=shape.device)  # is the slot of the newest token, and
        self._mask = torch.zeros(self.slots, **options)  # is added to logits, [S]
        self._settled: list[Tensor] = []  # attention of the window by layer, until the slots change

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held for one episode."""
        return (self.keys.nbytes + self.values.nbytes) // self.n

    def begin(self, positions: Tensor) -> None:
        """Announce a forward over tokens at `positions` [N, T]; their slots are the next T."""
        self._new, self._settled, self._one_by_one = positions.shape[1], [], False
        start, self.length = self.length, self.length + self._new
        assert self.length <= self.slots, f"{self.length} slots do not fit into {self.slots}"
        self.positions[..., start : self.length] = positions[None, :, None]
        kept = min(self._new, self.n_obs)
        self.query_positions = torch.cat([self.query_positions[:, kept:], positions[:, -kept:]], 1)
        if kept < self.n_obs:
            for queries in self.queries:
                queries[..., :-kept, :] = queries[..., kept:, :].clone()

    def open(self, positions: Tensor) -> None:
        """Announce a window whose tokens, at `positions` [N, evict_every], are read one by one.

        Room is made for all of them at once, so that each forward works on the same tensors in the same shapes; where
        it writes is a number on the device.
        """
        self.begin(positions)
        assert self.length == self.slots, "a window ends with all slots filled"
        self._one_by_one = True
        self.rewind()

    def rewind(self) -> None:
        """Go back to the beginning of the window that is open."""
        self._cursor.fill_(self.budget - 1)
        self._mask[: self.budget].fill_(0)
        self._mask[self.budget :].fill_(-math.inf)

    def advance(self) -> None:
        """Go to the next token of the window that is open."""
        self._cursor += 1
        self._mask.index_fill_(0, self._cursor, 0)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values [N, H_kv, T, D] of one layer; return all that are filled."""
        if self._one_by_one:
            keys, values = self._layer_keys[layer], self._layer_values[layer]
            return keys.index_copy_(2, self._cursor, key), values.index_copy_(2, self._cursor, value)
        self.keys[layer, :, :, self.length - self._new : self.length] = key
        self.values[layer, :, :, self.length - self._new : self.length] = value
        return self.keys[layer, :, :, : self.length], self.values[layer, :, :, : self.length]

    def observe(self, layer: int, query: Tensor, key: Tensor, scale: float) -> None:
        """Keep the newest queries; at a prefill, accumulate the attention of those that will not be kept."""
        self.scale = scale
        if self._one_by_one:
            self._layer_queries[layer].index_copy_(2, self._cursor + (self.n_obs - self.slots), query)
            return
        kept = min(self._new, self.n_obs)
        self.queries[layer, :, :, self.n_obs - kept :] = query[:, :, -kept:]
        if self.statistics and self._new == self.length:
            self._accumulate_prefill(layer, query, key, scale)

    def _accumulate_prefill(self, layer: int, query: Tensor, key: Tensor, scale: float) -> None:
        """Accumulate all but the last `evict_every` queries of a prefill; `settle` adds those."""
        end = self.length - self.evict_every
        current = {name: tensor[layer, ..., : self.length] for name, tensor in self.statistics.items()}
        for start in range(0, end, 256):
            stop = min(start + 256, end)
            visible = torch.ones(stop - start, self.length, dtype=torch.bool, device=key.device).tril(start)
            rows = attention_rows(query[:, :, start:stop], key, visible, scale)
            queries = self.positions[layer, :, 0, start:stop]  # those of the slots: nothing is evicted yet
            accumulate(current, rows, queries[:, None, :, None], torch.arange(start, stop, device=key.device) + 1)

    def marks(self, layer: int) -> None:
        """Nobody asks what is paid to some of its slots while it reads."""
        return None

    def visible(self, length: int, group: int) -> Tensor | None:
        """Which slots the queries of this forward see, [group * T, S]; None means all."""
        if self._one_by_one:
            return self._mask.expand(group * length, -1)
        if length == 1:
            return None
        mask = torch.ones(length, self.length, dtype=torch.bool, device=self.shape.device)
        return mask.tril(self.length - length).repeat(group, 1)

    def rows(self, n_queries: int) -> Tensor:
        """Attention of the newest `n_queries` queries over the live slots, [L, N, H_kv, group, T, S].

        Exact for queries since the last eviction; older ones are renormalised over what is left.
        """
        if self._settled and n_queries <= self.evict_every:
            return torch.stack(self._settled)[..., self.evict_every - n_queries :, :]
        queries = self.queries[..., self.n_obs - n_queries :, :]
        if n_queries <= self.evict_every:
            return newest_rows(queries, self.keys[..., : self.length, :], self.scale)
        before, left = n_queries - self.evict_every, self.length - self.evict_every  # who saw nothing of the window
        seen, keys = self.seen_by(n_queries)[..., :before, :left], self.keys[..., :left, :]
        older = attention_rows(queries[..., :before, :], keys, seen, self.scale)
        found = older.new_zeros(*older.shape[:-2], n_queries, self.length)
        found[..., :before, :left], found[..., before:, :] = older, self.rows(self.evict_every)
        return found

    def seen_by(self, n_queries: int) -> Tensor:
        """Which live slots the newest `n_queries` queries may see, [L, N, H_kv, 1, T, S] bool."""
        when = self.query_positions[:, self.n_obs - n_queries :]
        return self.positions[..., None, None, : self.length] <= when[None, :, None, None, :, None]

    def settle(self) -> None:
        """Accumulate the window that ends here. Called once before each eviction, and by nobody else."""
        if not self.statistics:
            return
        window = self.query_positions[:, self.n_obs - self.evict_every :]
        n_seen = torch.arange(self.length - self.evict_every, self.length, device=window.device) + 1
        settled, few = [], self._window_bytes <= MOST_SETTLED
        for index in range(self.shape.n_layers):
            layer = self.layer(index)
            rows = layer.rows(self.evict_every)
            accumulate(layer.statistics, rows, window[None, :, None, :, None], n_seen)
            if few:
                settled.append(rows[0])
        self._settled = settled

    @property
    def _window_bytes(self) -> int:
        """Of the attention of a window in all layers."""
        heads = self.shape.n_layers * self.n * self.shape.n_q_heads
        return 4 * heads * self.evict_every * self.length

    def carry(self, name: str, fill: float = 0.0) -> Tensor:
        """Return the per-slot state `name`, [L, N, H_kv, S] float32, to be changed in place; new slots hold `fill`."""
        if name not in self.carried:
            self._fills[name] = fill
            self.carried[name] = torch.full(self.positions.shape, float(fill), device=self.shape.device)
        return self.carried[name]

    def memory(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the per-episode state `name`, [L, N, *shape] float32, to be changed in place; zero at first."""
        if name not in self.memories:
            self.memories[name] = torch.zeros(self.shape.n_layers, self.n, *shape, device=self.shape.device)
        return self.memories[name]

    def evict(self, keep: Tensor) -> None:
        """Keep the slots `keep` [L, N, H_kv, budget], given in time order; all others are gone for good."""
        index = keep[..., None].expand(*keep.shape, self.shape.head_dim)
        for layer, chosen in enumerate(index):  # a copy of one layer at a time
            for tensor in (self.keys[layer], self.values[layer]):
                tensor[..., : self.budget, :] = tensor.gather(-2, chosen)
        self.positions[..., : self.budget] = self.positions.gather(-1, keep)
        for name, tensor in self.carried.items():
            tensor[..., : self.budget] = tensor.gather(-1, keep)
            tensor[..., self.budget :] = self._fills[name]
        per_query_head = keep[..., None, :].expand(*keep.shape[:-1], self.shape.group, self.budget)
        for name, tensor in self.statistics.items():
            kind = ACCUMULATORS[name]
            tensor[..., : self.budget] = tensor.gather(-1, per_query_head if kind.grouped else keep)
            tensor[..., self.budget :] = kind.fill
        self.length, self._settled = self.budget, []

    def _batch_tensors(self) -> list[Tensor]:
        """Every tensor whose second axis is the batch."""
        carried = [self.carried[name] for name in sorted(self.carried)]
        memories = [self.memories[name] for name in sorted(self.memories)]
        return [self.keys, self.values, self.positions, self.queries, *self.statistics.values(), *carried, *memories]

    def shown(self) -> dict[str, Tensor]:
        """What an agent sees of the cache, by name; its own state, which it may change, is not among it."""
        found = {name: getattr(self, name) for name in ("keys", "values", "positions", "queries", "query_positions")}
        rows = {f"attention of layer {index}": rows for index, rows in enumerate(self._settled)}
        return found | rows | self.statistics

    def layer(self, index: int) -> SlotCache:
        """Return one layer as a cache of its own, L = 1. It shares all memory and is only for reading."""
        one, here = copy.copy(self), slice(index, index + 1)
        for name in ("keys", "values", "positions", "queries"):
            setattr(one, name, getattr(self, name)[here])
        one.statistics = {name: tensor[here] for name, tensor in self.statistics.items()}
        one._settled = self._settled[here]
        return one

    def _share_state(self, other: SlotCache) -> None:
        """Make both caches hold agents' state of the same names."""
        for one, two in ((self, other), (other, self)):
            for name, fill in two._fills.items():
                one.carry(name, fill)
            for name, values in two.memories.items():
                one.memory(name, tuple(values.shape[2:]))

    def select(self, rows: Tensor) -> SlotCache:
        """Return a copy that holds only `rows` [R] of the batch."""
        part = SlotCache(self.shape, len(rows), self.budget, self.evict_every, self.n_obs, self.statistics)
        part._share_state(self)
        for mine, theirs in zip(part._batch_tensors(), self._batch_tensors(), strict=True):
            mine.copy_(theirs[:, rows])
        part.query_positions = self.query_positions[rows]
        part.length, part.scale = self.length, self.scale
        return part

    def put(self, rows: Tensor, part: SlotCache) -> None:
        """Overwrite `rows` [R] of the batch with the rows of `part`, which holds as many slots."""
        self._share_state(part)
        for mine, theirs in zip(self._batch_tensors(), part._batch_tensors(), strict=True):
            mine[:, rows] = theirs
        self.query_positions[rows] = part.query_positions
        self.length, self.scale = part.length, part.scale
        if self._settled and part._settled:
            for mine, theirs in zip(self._settled, part._settled, strict=True):
                mine[rows] = theirs
        else:
            self._settled = []


class FullCache(Cache):
    """A cache that keeps everything; the slot of a token is its position, so rows may have different lengths.

    Args:
        shape: Sizes of the model.
        n: Episodes in the batch, N.
        capacity: Longest text, tokens. Memory is taken as texts grow, not for all of it at once.

    Attributes:
        rows: The episodes that the next forwards read, [R]; all of them at first.
        observer: Called as observer(layer, query [N, H_q, T, D], key [N, H_kv, S, D], scale) at every attention.
        live: Slots that another cache still holds, [L, R, H_kv, K]; what the others get is then found in `missed`.
        missed: Attention that went to those others, a layer each, [R, H_kv]: mean over the queries of a forward and the
            GQA group.
    """

    def __init__(self, shape: CacheShape, n: int, capacity: int) -> None:
        self.shape, self.n, self.capacity = shape, n, capacity
        super().__init__(layers=[_Layer(self, index) for index in range(shape.n_layers)])
        self.keys, self.values = self._empty(min(capacity, FIRST)), self._empty(min(capacity, FIRST))
        self.observer: Observer | None = None
        self.live: Tensor | None = None
        self.missed: list[Tensor] = []
        self.length = 0
        self._positions = torch.zeros(n, 0, dtype=torch.long, device=shape.device)
        self.rows = torch.arange(n, device=shape.device)
        self._visible: dict[int, Tensor] = {}
        self._longest: int | None = None

    def expect(self, longest: int) -> None:
        """Say where the texts end, at most, behind the next forward: else each one waits for the device to know."""
        self._longest = longest

    def open(self, positions: Tensor, longest: int) -> None:
        """Announce forwards of one token a row, at `positions` [R, 1] as they stand then, up to a text of `longest`."""
        self.expect(longest)
        self.begin(positions)

    def advance(self) -> None:
        """Go to the next token, whose positions stand where `open` was told."""
        self._visible = {}

    def rewind(self) -> None:
        """Nothing to do: a token stands at its position."""

    def begin(self, positions: Tensor) -> None:
        """Announce a forward over tokens at `positions` [R, T]; what stands there is overwritten."""
        self._positions = positions
        self._visible = {}
        self.length = int(positions.max()) + 1 if self._longest is None else self._longest
        self._longest = None
        taken = self.keys.shape[3]
        if self.length > taken:
            more = min(self.capacity, max(self.length, 2 * taken)) - taken
            self.keys = torch.cat([self.keys, self._empty(more)], 3)  # one after the other: the old ones go in between
            self.values = torch.cat([self.values, self._empty(more)], 3)

    def _empty(self, tokens: int) -> Tensor:
        """Room for so many tokens, [L, N, H_kv, T, D]."""
        shape = self.shape
        size = (shape.n_layers, self.n, shape.n_kv_heads, tokens, shape.head_dim)
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values [R, H_kv, T, D] of one layer at their positions."""
        rows = self.rows[:, None]
        self.keys[layer].transpose(1, 2)[rows, self._positions] = key.transpose(1, 2)
        self.values[layer].transpose(1, 2)[rows, self._positions] = value.transpose(1, 2)
        keys, values = self.keys[layer, :, :, : self.length], self.values[layer, :, :, : self.length]
        return (keys, values) if len(self.rows) == self.n else (keys[self.rows], values[self.rows])

    def observe(self, layer: int, query: Tensor, key: Tensor, scale: float) -> None:
        """Show the queries and keys of a layer to the observer."""
        if self.observer is not None:
            self.observer(layer, query, key, scale)

    def marks(self, layer: int) -> Tensor | None:
        """1 where a slot is not live, [R, H_kv, S]; None where nobody asks."""
        if self.live is None:
            return None
        slots = self.live[layer]
        return torch.ones(*slots.shape[:-1], self.length, device=slots.device).scatter_(-1, slots, 0)

    def note(self, share: Tensor) -> None:
        """Keep what the queries of a layer paid to marked slots, [R, H_kv, group * T]."""
        self.missed.append(share.float().mean(-1))

    def seen(self) -> Tensor:
        """Which slots the queries of this forward may see, [R, 1, 1, T, S] bool; R is 1 if all are at one place."""
        slots, positions = torch.arange(self.length, device=self.shape.device), self._positions
        if positions.stride(0) == 0:  # as `expand` makes them: one mask serves all rows
            positions = positions[:1]
        return (slots <= positions[..., None])[:, None, None]

    def visible(self, length: int, group: int) -> Tensor | None:
        """The same for queries folded by group, [R, 1, group * T, S], 0 or -inf: added to logits; R may be 1."""
        if group not in self._visible:  # as numbers: each layer would turn it into them again
            hidden = ~self.seen()[:, 0].repeat(1, 1, group, 1)
            self._visible[group] = torch.zeros(hidden.shape, dtype=self.shape.dtype, device=hidden.device)
            self._visible[group].masked_fill_(hidden, -math.inf)
        return self._visible[group]
