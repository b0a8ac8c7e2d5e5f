"""Golden Eviction: hindsight labels from the attention that slots will get.

Source: ForesightKV, arXiv:2602.03203: mean over the queries of a future block and over the GQA group, maximum over
future blocks. Differs from its code: a ragged last block is averaged over its true length, and everything is float32.
It is greedy, a strong label and not a proven optimum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import text_capacity
from kv_gym.engine.reference import Reference
from kv_gym.engine.slots import Hindsight
from kv_gym.llm.attention import attention_rows
from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM


def block_attention(llm: FrozenLLM, tokens: Tensor, lengths: Tensor, start: int, block: int) -> Tensor:
    """Full-cache attention to each token, averaged over blocks of later queries.

    Args:
        llm: The frozen LLM.
        tokens: Whole texts, padded on the right, [N, T].
        lengths: Their lengths, [N].
        start: Position of the first query of block 0.
        block: Queries per block.

    Returns:
        [N, L, H_kv, T, n_blocks] float32: mean over the queries of a block inside the text, and over the group.
    """
    n, longest = tokens.shape
    n_blocks = max(1, -(-(longest - start) // block))
    shape = llm.shape
    means = torch.zeros(n, shape.n_layers, shape.n_kv_heads, longest, n_blocks, device=tokens.device)
    cache = FullCache(shape, n, longest)
    slots = torch.arange(longest, device=tokens.device)

    def observe(layer: int, query: Tensor, key: Tensor, scale: float) -> None:
        for b in range(n_blocks):
            queries = slots[start + b * block : start + (b + 1) * block]
            rows = attention_rows(query[:, :, queries], key, slots <= queries[:, None], scale)  # [N, H_kv, g, T_q, T]
            inside = (queries < lengths[:, None])[:, None, None, :, None]
            count = inside.sum(-2).clamp_min(1)
            means[:, layer, :, :, b] = ((rows * inside).sum(-2) / count).mean(2)

    cache.observer = observe
    positions = slots.expand(n, -1)
    llm.read(tokens, positions, cache, last_only=True)
    return means


def coming_attention(blocks: Tensor, positions: Tensor, decision: Tensor) -> Tensor:
    """Attention that each live slot will get in each block of queries still to come.

    Args:
        blocks: [N, L, H_kv, T, n_blocks] from `block_attention`.
        positions: Of the live slots, [N, L, H_kv, S].
        decision: Which decision of its episode each row stands at, [N]; block k holds the queries after decision k.

    Returns:
        [N, L, H_kv, S, n_blocks]; 0 for blocks that are past, and for positions beyond the recorded text.
    """
    *_, longest, n_blocks = blocks.shape
    index = positions.clamp_max(longest - 1)[..., None].expand(*positions.shape, n_blocks)
    past = torch.arange(n_blocks, device=blocks.device) < decision[:, None]  # [N, n_blocks]
    unknown = (positions >= longest)[..., None] | past[:, None, None, None]
    return blocks.gather(-2, index).masked_fill(unknown, 0.0)


class Labels:
    """Golden labels of N episodes, a row each.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.
        n: Episodes, N.
    """

    def __init__(self, llm: FrozenLLM, config: EnvConfig, n: int) -> None:
        self.llm, self.config = llm, config
        capacity, shape = text_capacity(config), llm.shape
        n_blocks = max(0, -(-(capacity - config.slots) // config.evict_every))
        self.blocks = torch.zeros(n, shape.n_layers, shape.n_kv_heads, capacity, n_blocks, device=shape.device)

    def start(self, rows: Tensor, references: Sequence[Reference]) -> None:
        """Look ahead in the references of the episodes that start in `rows` [R]."""
        lengths = torch.tensor([len(r) for r in references], device=rows.device)
        tokens = torch.zeros(len(references), int(lengths.max()), dtype=torch.long, device=rows.device)
        for i, reference in enumerate(references):
            tokens[i, : len(reference)] = reference.tokens
        blocks = block_attention(self.llm, tokens, lengths, self.config.slots, self.config.evict_every)
        self.blocks[rows] = 0
        longest, n_blocks = blocks.shape[-2:]
        self.blocks[rows, :, :, :longest, :n_blocks] = blocks

    def of(self, positions: Tensor, decision: Tensor) -> Hindsight:
        """Labels of the live slots at `positions` [N, L, H_kv, S], at each row's decision [N]."""
        coming = coming_attention(self.blocks, positions, decision)
        return Hindsight(coming.amax(-1), coming.sum(-1))
