"""How much memory a batch of N rows takes, known before any of it is taken.

What is kept all the time follows from shapes. What is needed for a moment is what the code holds at its fullest: in the
MLP of a layer, in the attention of a layer, behind the logits. How many tensors that are was read off tensors that were
counted; `tests/benchmarks/memory.py` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import text_capacity
from kv_gym.engine.golden import MOST_EXACT
from kv_gym.engine.reading import LOGITS_AT_ONCE, NUMBERS_AT_ONCE, TOKENS_AT_ONCE, queries_at_once
from kv_gym.llm.accumulators import ACCUMULATORS, with_needed
from kv_gym.llm.attention import CHANNELS
from kv_gym.llm.cache import FIRST, MOST_SETTLED
from kv_gym.llm.outline import ModelSizes

FLOAT, LONG, HALF = 4, 8, 2  # bytes
COPIES_OF_ROWS = 3  # of a layer's attention at once: logits, masked, softmax
COPIES_OF_LOGITS = 4  # logits, log p, p, p * log p
SAMPLED_BYTES = 48  # a logit where tokens are drawn: sorted, their ids, and sums of double precision
SCORE_BYTES = 40  # a score while the lowest are looked for: scores, two copies, sorted ones, their places
UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"))
QUERIES_AT_ONCE = 256  # of a prefill, whose attention is accumulated


@dataclass(frozen=True)
class Asked:
    """What an agent makes the engine hold.

    Attributes:
        statistics: Accumulators.
        queries: Newest queries that are kept, at least.
        hindsight: Golden labels.
        layers: Whether it scores all layers at once.
    """

    statistics: tuple[str, ...] = ()
    queries: int = 0
    hindsight: bool = False
    all_layers: bool = False


@dataclass(frozen=True)
class Use:
    """Bytes on the device.

    Attributes:
        kept: All the time, by what they are.
        moments: Besides, at one moment and no other.
        host: In the host's memory, where the device has its own.
    """

    kept: Mapping[str, int]
    moments: Mapping[str, int]
    host: int = 0

    @property
    def fullest(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def peak(self) -> int:
        """What is needed in all."""
        return sum(self.kept.values()) + self.moments[self.fullest]

    def told(self) -> str:
        """What it is made of, in words."""
        parts = [f"{name} {in_words(size)}" for name, size in self.kept.items() if size]
        return f"{in_words(self.peak)} ({', '.join(parts)}; {self.fullest} {in_words(self.moments[self.fullest])})"


def in_words(size: int) -> str:
    """A number of bytes for people."""
    unit, name = next(((2**power, name) for power, name in UNITS if size >= 2**power), (1, "bytes"))
    return f"{size / unit:.{0 if unit == 1 else 2}f} {name}"


class MemoryPlan:
    """What a model takes in an env.

    Args:
        sizes: Of the model.
        config: Settings of the env.
        asked: What the agent needs.
    """

    def __init__(self, sizes: ModelSizes, config: EnvConfig, asked: Asked) -> None:
        self.sizes, self.shape, self.config, self.asked = sizes, sizes.shape, config, asked
        self.capacity, self.item = text_capacity(config), sizes.shape.dtype.itemsize

    def playing(self, n: int) -> Use:
        """N episodes side by side."""
        labels = self.labels(n)
        on_device = labels if self.shape.device.type == "cpu" else 0
        kept = {
            "weights": self.sizes.weights,
            "slots": self.slots(n),
            "shadow": self.full_cache(n) if self.config.shadow else 0,
            "golden labels": on_device,
            "texts": n * self.capacity * (2 * LONG + 4 * FLOAT),
        }
        if self.shape.device.type == "cuda":
            kept["recorded step"] = self._token(n)
        moments = {"start of episodes": self._start(n), "a token": self._token(n), "a decision": self._decision(n)}
        if self.config.mode == "replay" or self.config.max_prompt_tokens > self.config.slots:
            moments["a known window"] = self._window(n)
        if self.config.shadow:
            moments["shadow"] = self._shadow(n)
        if self.asked.hindsight:
            moments["golden labels"] = self.full_cache(n) + self._golden(n)
        return Use(kept, moments, labels - on_device)

    def references(self, n: int) -> Use:
        """Full-cache texts of N problems side by side."""
        kept = {
            "weights": self.sizes.weights,
            "full cache": self.full_cache(n),
            "texts": n * self.capacity * (2 * LONG + 2 * FLOAT),
        }
        if self.shape.device.type == "cuda":
            kept["recorded step"] = self._token(n)
        moments = {"growth": self._growth(n), "what is known": self._known(n), "a token": self._token(n)}
        return Use(kept, moments)

    def slots(self, n: int) -> int:
        """Keys, values, positions, queries and accumulators."""
        shape, slots = self.shape, self.config.slots
        heads = n * shape.n_layers * shape.n_kv_heads * slots
        kinds = [ACCUMULATORS[name] for name in with_needed(self.asked.statistics)]
        statistics = sum(shape.group * FLOAT if kind.grouped else LONG for kind in kinds)
        queries = n * shape.n_layers * shape.n_q_heads * self.n_obs * shape.head_dim * self.item
        return n * slots * shape.slot_bytes + heads * (LONG + statistics) + queries

    def _settled(self, n: int) -> int:
        """Attention of a window in all layers, which is kept where it is little."""
        window = FLOAT * n * self.shape.n_layers * self.shape.n_q_heads * self.config.evict_every * self.config.slots
        return window if self.asked.statistics and window <= MOST_SETTLED else 0

    @property
    def n_obs(self) -> int:
        """Queries that are kept of each row."""
        return max(32, self.config.evict_every, self.asked.queries)

    def full_cache(self, n: int) -> int:
        """Keys and values of whole texts."""
        return n * self.capacity * self.shape.slot_bytes

    def labels(self, n: int) -> int:
        """Golden labels: two numbers for each token and each block of later queries."""
        if not self.asked.hindsight:
            return 0
        blocks = 1 + max(0, -(-(self.capacity - self.config.slots) // self.config.evict_every))
        numbers = 2 * n * self.shape.n_layers * self.shape.n_kv_heads * self.capacity * blocks
        return numbers * (FLOAT if numbers * FLOAT <= MOST_EXACT else HALF)

    def _start(self, n: int) -> int:
        """Rows that start are read into a cache of their own, some at once, and copied."""
        shape, slots = self.shape, self.config.slots
        n = min(n, max(1, TOKENS_AT_ONCE // slots))
        mask = slots * slots * (2 + shape.group * (1 + self.item))
        attention = 0
        if self.asked.statistics:
            heads = shape.n_q_heads + 2 * shape.n_kv_heads
            states = n * slots * (3 * self.sizes.hidden + (heads + 2) * shape.head_dim) * self.item
            attention = states + self._rows(n, min(QUERIES_AT_ONCE, self.config.budget), slots)
        reading = mask + max(self._states(n * slots), attention) + n * self.sizes.n_vocabulary * FLOAT
        return self.slots(n) + max(reading, self._decision(n))

    def _token(self, n: int) -> int:
        """A forward of one token a row, and the choice of the next."""
        each = COPIES_OF_LOGITS * FLOAT + (SAMPLED_BYTES if self.config.temperature else 0)
        return max(self._states(n), n * self.sizes.n_vocabulary * each)

    def _window(self, n: int) -> int:
        """Known tokens, as many at once as their logits allow; rows that are read alone (others ended) are copied."""
        some = max(1, LOGITS_AT_ONCE // (n * self.sizes.n_vocabulary))
        tokens = n * min(some, self.config.evict_every)
        return self.slots(n) + max(self._states(tokens), tokens * self.sizes.n_vocabulary * COPIES_OF_LOGITS * FLOAT)

    def _decision(self, n: int) -> int:
        """Attention of a window in a layer, as float32; and all scores while the lowest are looked for."""
        shape, slots = self.shape, self.config.slots
        keys = n * shape.n_kv_heads * slots * shape.head_dim * FLOAT
        rows = self._rows(n, max(self.config.evict_every, self.asked.queries), slots)
        layers = shape.n_layers if self.asked.all_layers else 1
        scores = n * shape.n_layers * shape.n_kv_heads * slots * SCORE_BYTES
        return self._settled(n) + layers * (rows + keys) + scores

    def _golden(self, n: int) -> int:
        """Attention of a block of queries, some rows of a layer at once, and its means in all layers."""
        rows = min(COPIES_OF_ROWS * FLOAT * NUMBERS_AT_ONCE, self._rows(n, self.config.evict_every, self.capacity))
        return rows + FLOAT * n * self.shape.n_layers * self.shape.n_kv_heads * self.capacity

    def _shadow(self, n: int) -> int:
        """The full cache reads what starts, or a window, with a mask of its own for each row; or it grows."""
        slots, window = self.config.slots, self.config.evict_every
        some = min(n, max(1, TOKENS_AT_ONCE // slots))
        chunk = min(slots, queries_at_once(some * self.shape.group * slots))
        start = self._states(some * chunk) + self._mask(1, chunk, slots)
        logits = n * window * self.sizes.n_vocabulary * COPIES_OF_LOGITS * FLOAT
        missed = n * self.capacity * self.shape.n_kv_heads * 2 * (self.shape.head_dim + CHANNELS) * self.item
        reading = self._mask(n, window, self.capacity) + max(self._states(n * window), missed, logits)
        return self.slots(n) + max(start, reading, self._growth(n))

    def _growth(self, n: int) -> int:
        """A full cache that grows holds its old keys or values beside the new ones."""
        return self.full_cache(n) // 2 if self.capacity > FIRST else 0

    def _known(self, n: int) -> int:
        """Prompts are read in chunks, and in replay the traces that there may be."""
        known = self.config.max_prompt_tokens + (self.config.max_new_tokens if self.config.mode == "replay" else 0)
        wide = max(self.sizes.n_vocabulary, self.shape.group * known)
        chunk = min(known, queries_at_once(n * wide))
        logits = n * chunk * self.sizes.n_vocabulary * COPIES_OF_LOGITS * FLOAT
        return n * self.sizes.n_vocabulary * FLOAT + max(logits, self._states(n * chunk) + self._mask(1, chunk, known))

    def _states(self, tokens: int) -> int:
        """What a forward holds in the MLP of a layer.

        Between layers the embeddings, the layer's input, what goes around the MLP and into it; inside, three tensors;
        and the turns of RoPE.
        """
        return tokens * (4 * self.sizes.hidden + 3 * self.sizes.inner + 2 * self.shape.head_dim) * self.item

    def _mask(self, n: int, queries: int, slots: int) -> int:
        """Which slots each query sees, a row each: bool, and as the number that attention adds."""
        return n * queries * slots * (1 + self.shape.group * (1 + self.item))

    def _rows(self, n: int, queries: int, slots: int) -> int:
        """Attention of some queries in one layer."""
        return COPIES_OF_ROWS * FLOAT * n * self.shape.n_q_heads * queries * slots


def widest(use: Callable[[int], Use], memory: int, most: int) -> int:
    """The most rows, up to `most`, whose peak fits into so many bytes; 0 if not one does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if use(middle).peak <= memory else (low, middle - 1)
    return low
