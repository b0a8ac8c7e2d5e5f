"""Reading token after token into a cache, always through the same tensors, so that it can be recorded once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kv_gym.llm.cache import FullCache, SlotCache
from kv_gym.llm.frozen import FrozenLLM

How = Literal["eager", "compiled", "graph"]


def way_to_read(device: torch.device) -> How:
    """How tokens are read there: on a GPU launching a kernel takes longer than running it."""
    return "graph" if device.type == "cuda" else "eager"


class TokenReader:
    """Reads one token a row at a time, into a cache that was told so (`open`).

    Args:
        llm: The frozen LLM.
        cache: Of N rows.
        how: `eager`; `graph`: recorded once as a CUDA graph, which spares the launch of each kernel; `compiled`: by
            inductor.

    Attributes:
        tokens: To be read next, [N]; set it in place.
        positions: Theirs, [N]; set it in place.
    """

    def __init__(self, llm: FrozenLLM, cache: SlotCache | FullCache, how: How = "eager") -> None:
        self.llm, self.cache, self.how = llm, cache, how
        self.tokens, self.positions = torch.zeros(2, cache.n, dtype=torch.long, device=llm.shape.device).unbind()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._length = 0  # of the cache when it was recorded
        self._logits = torch.zeros(0)
        self._compiled = (
            torch.compile(self._forward, dynamic=False, options={"freezing": True})
            if how == "compiled"
            else self._forward
        )

    @property
    def fixed(self) -> bool:
        """Whether what it reads into must always be the same cache, with all its rows."""
        return self.how != "eager"

    def room(self, length: int) -> int:
        """Length to read a text of `length` at: only some, where each means another record."""
        if not self.fixed:
            return length
        step = max(256, 1 << (length.bit_length() - 3))
        return -(-length // step) * step

    @torch.no_grad()
    def read(self) -> Tensor:
        """Read a token a row; return logits float32 [N, V], which hold until the next one is read."""
        if self.how != "graph":
            return self._compiled()
        if self._graph is None or self._length != self.cache.length:
            self._graph = None  # its memory first
            self._graph, self._length = self._record(), self.cache.length
        self._graph.replay()
        return self._logits

    def _forward(self) -> Tensor:
        self.cache.advance()
        return self.llm.forward(self.tokens[:, None], self.positions[:, None], self.cache, last_only=True)[:, 0]

    def _record(self) -> torch.cuda.CUDAGraph:
        """Record a forward at the beginning of a window."""
        aside = torch.cuda.Stream(self.llm.shape.device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries take their memory the first time
            self._forward()
        torch.cuda.current_stream().wait_stream(aside)
        self.cache.rewind()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._forward()
        return graph
