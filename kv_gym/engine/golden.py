"""Golden Eviction: hindsight labels from the attention that slots will get.

Source: ForesightKV, arXiv:2602.03203: mean over the queries of a future block and over the GQA group, maximum over
future blocks. Differs from its code: a ragged last block is averaged over its true length, and everything is computed
in float32. It is greedy, a strong label and not a proven optimum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.capacity import text_capacity
from kv_gym.engine.reading import NUMBERS_AT_ONCE, read_known
from kv_gym.engine.reference import Reference
from kv_gym.engine.slots import Hindsight
from kv_gym.files import remove_drafts, write_whole
from kv_gym.llm.attention import attention_rows
from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM

logger = logging.getLogger(__name__)

MOST_EXACT = 2**30
"""Bytes of labels that are kept in float32; where it would be more, half precision has to do."""

STORED_UNIT = 2.0**14
"""What shares are multiplied with in files of half precision: 1 stays in range, and 1e-9 is not lost."""


def block_attention(
    llm: FrozenLLM, tokens: Tensor, lengths: Tensor, start: int, block: int
) -> Iterator[tuple[int, Tensor]]:
    """Full-cache attention to each token, averaged over a block of later queries; block after block.

    The text is read in chunks, and attention is that of one layer and a few rows at a time, so memory grows with the
    length of the text and not with its square.

    Args:
        llm: The frozen LLM.
        tokens: Whole texts, padded on the right, [N, T].
        lengths: Their lengths, [N].
        start: Position of the first query of block 0.
        block: Queries per block.

    Yields:
        (b, [N, L, H_kv, S]): block b; S are the tokens up to its end. Mean over its queries that are inside the text,
        and over the group.
    """
    (n, longest), shape = tokens.shape, llm.shape
    cache, slots = FullCache(shape, n, longest), torch.arange(longest, device=tokens.device)
    read = 0
    for b, first in enumerate(range(start, longest, block)):
        read_known(llm, cache, tokens, read, first)
        read = min(first + block, longest)
        queries, means = slots[first:read], torch.zeros(n, shape.n_layers, shape.n_kv_heads, read, device=tokens.device)
        inside = (queries < lengths[:, None])[:, None, None, :, None]
        visible = slots[:read] <= queries[:, None]

        def observe(
            layer: int, query: Tensor, key: Tensor, scale: float,
            means: Tensor = means, inside: Tensor = inside, visible: Tensor = visible,
        ) -> None:  # fmt: skip
            at_once = max(1, NUMBERS_AT_ONCE // (query[0, ..., 0].numel() * key.shape[2]))
            for i in range(0, n, at_once):
                some = slice(i, i + at_once)
                rows = attention_rows(query[some], key[some], visible, scale)  # [N, H_kv, group, T, S]
                total = (rows * inside[some]).sum(-2) / inside[some].sum(-2).clamp_min(1)
                means[some, layer] = total.mean(2)

        cache.observer = observe
        cache.expect(read)
        llm.read(tokens[:, first:read], queries.expand(n, -1), cache, last_only=True)
        cache.observer = None
        yield b, means


def stored_attention(
    llm: FrozenLLM, references: Sequence[Reference], start: int, block: int, folder: Path
) -> Iterator[tuple[int, Tensor]]:
    """The same of references, in half precision, from files in `folder`; what is not there yet is computed and kept.

    Blocks of budgets that are multiples of `block` apart are the same, so one file serves them all. It takes two bytes
    for each block, layer, KV head and token: 16 MB for 3,300 tokens of 30 layers with 3 heads, and four times that for
    twice as many. What is missing is computed side by side, so give as many references as fit.

    Yields:
        (b, [N, L, H_kv, S]): block b; S are the tokens of the longest reference up to its end.
    """
    offset = start % block
    paths = [folder / f"{reference.hash[:40]}-{offset}-{block}.safetensors" for reference in references]
    found = [_stored(path) for path in paths]
    missing = [one for one, table in zip(zip(references, paths, strict=True), found, strict=True) if table is None]
    if missing:
        tokens, lengths = padded([reference for reference, _ in missing], llm.shape.device)
        size = (len(missing), -(-(tokens.shape[1] - offset) // block), llm.shape.n_layers, llm.shape.n_kv_heads)
        made = torch.zeros(*size, tokens.shape[1], dtype=torch.float16)
        for b, means in block_attention(llm, tokens, lengths, offset, block):
            made[:, b, ..., : means.shape[-1]] = (means * STORED_UNIT).half().cpu()
        for table, (reference, path) in zip(made, missing, strict=True):
            remove_drafts(path)
            here = table[: -(-(len(reference) - offset) // block), ..., : len(reference)]
            write_whole(path, save({"attention": here.contiguous()}))
    tables = [
        load_file(path)["attention"] if table is None else table for path, table in zip(paths, found, strict=True)
    ]
    longest = max(table.shape[-1] for table in tables)
    for b in range((start - offset) // block, max(len(table) for table in tables)):
        end = min(offset + (b + 1) * block, longest)
        means = torch.zeros(len(tables), *tables[0].shape[1:-1], end)
        for row, table in zip(means, tables, strict=True):
            if b < len(table):
                row[..., : table.shape[-1]] = table[b, ..., :end].float() / STORED_UNIT
        yield b - (start - offset) // block, means


def _stored(path: Path) -> Tensor | None:
    """What a file holds; None where there is none, or it is damaged: it is made anew then."""
    try:
        return load_file(path)["attention"] if path.exists() else None
    except (SafetensorError, KeyError) as error:
        logger.warning("golden labels in %s are damaged (%s) and are made again.", path, error)
        return None


def padded(references: Sequence[Reference], device: torch.device) -> tuple[Tensor, Tensor]:
    """Texts side by side, padded on the right, [N, T], and their lengths, [N]."""
    lengths = torch.tensor([len(reference) for reference in references], device=device)
    tokens = torch.zeros(len(references), int(lengths.max()), dtype=torch.long, device=device)
    for row, reference in zip(tokens, references, strict=True):
        row[: len(reference)] = reference.tokens
    return tokens, lengths


class Labels:
    """Golden labels of N episodes, a row each: for each decision, what every token of the text will get from then on.

    They lie in the host's memory, and only those of the live slots go to the model's device.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.
        n: Episodes, N.
        folder: Keeps what references get, for trainings that meet them again and again (`stored_attention`).
    """

    def __init__(self, llm: FrozenLLM, config: EnvConfig, n: int, folder: Path | None = None) -> None:
        self.llm, self.config, self.folder = llm, config, folder
        capacity, shape = text_capacity(config), llm.shape
        n_blocks = max(0, -(-(capacity - config.slots) // config.evict_every))
        size = (n, n_blocks + 1, shape.n_layers, shape.n_kv_heads, capacity)  # nothing comes behind the last block
        exact = 2 * 4 * torch.Size(size).numel() <= MOST_EXACT
        dtype = torch.float32 if exact else torch.float16
        # The sum over blocks is below 2**15 then, and shares far below the average one keep their places.
        self._unit = 1.0 if exact else 2.0 ** (14 - n_blocks.bit_length())
        self._largest, self._total = (torch.zeros(size, dtype=dtype) for _ in range(2))

    def start(self, rows: Tensor, references: Sequence[Reference]) -> None:
        """Look ahead in the references of the episodes that start in `rows` [R]."""
        start, block = self.config.slots, self.config.evict_every
        if self.folder is None:
            blocks = block_attention(self.llm, *padded(references, rows.device), start, block)
        else:
            blocks = stored_attention(self.llm, references, start, block, self.folder)
        self.put(rows.cpu(), blocks)

    def put(self, rows: Tensor, blocks: Iterator[tuple[int, Tensor]]) -> None:
        """Enter the attention of each block for `rows` [R], in order: see `block_attention`."""
        self._largest[rows], self._total[rows] = 0, 0
        last = 0
        for last, means in blocks:
            self._largest[rows, last, ..., : means.shape[-1]] = (means.cpu() * self._unit).to(self._largest.dtype)
        self._total[rows, last] = self._largest[rows, last]
        for b in range(last - 1, -1, -1):  # from then on: of this block and all behind it
            self._total[rows, b] = self._largest[rows, b] + self._total[rows, b + 1]
            self._largest[rows, b] = torch.maximum(self._largest[rows, b], self._largest[rows, b + 1])

    def of(self, positions: Tensor, decision: Tensor) -> Hindsight:
        """Labels of the live slots at `positions` [N, L, H_kv, S], at each row's decision [N].

        They are 0 for positions beyond the recorded text.
        """
        home, rows = positions.cpu(), torch.arange(len(positions))
        block = decision.cpu().clamp_max(self._largest.shape[1] - 1)
        index = home.clamp_max(self._largest.shape[-1] - 1)

        def now(table: Tensor) -> Tensor:
            return (table[rows, block].gather(-1, index).float() / self._unit).to(positions.device)

        return Hindsight(now(self._largest), now(self._total))
