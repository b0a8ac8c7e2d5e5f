"""Reading token after token into a cache, always through the same tensors, so that it can be recorded once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from kv_gym.errors import ConfigError
from kv_gym.llm.cache import FullCache, SlotCache
from kv_gym.llm.frozen import FrozenLLM

How = Literal["eager", "compiled", "graph"]
MOST_SHAPES = 256  # numbers of rows and slots that a process compiles for; torch gives up after 8
logger = logging.getLogger(__name__)


def way_to_read(device: torch.device, compile: Literal["auto", "on", "off"] = "auto") -> How:
    """How tokens are read there: on a GPU launching a kernel takes longer than running it."""
    if compile == "off":
        return "eager"
    if device.type == "cuda":
        return "graph"
    return "compiled" if compile == "on" else "eager"


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
        self._compiled: Callable[[], Tensor] | None = None

    @property
    def fixed(self) -> bool:
        """Whether what it reads into must always be the same cache, with all its rows."""
        return self.how != "eager"

    def room(self, length: int) -> int:
        """Length to read a text of `length` at: only some, where each means another record."""
        if not self.fixed:
            return length
        step = max(256, 1 << max(0, length.bit_length() - 3))
        return -(-length // step) * step

    @torch.no_grad()
    def read(self) -> Tensor:
        """Read a token a row; return logits float32 [N, V], which hold until the next one is read."""
        if self.how == "eager":
            return self._forward()
        if self.how == "compiled":
            return self._compiled() if self._compiled else self._compile()
        if self._graph is None or self._length != self.cache.length:
            self._graph = None  # its memory first
            self._graph, self._length = self._record(), self.cache.length
        self._graph.replay()
        return self._logits

    def _forward(self) -> Tensor:
        self.cache.advance()
        return self.llm.forward(self.tokens[:, None], self.positions[:, None], self.cache, last_only=True)[:, 0]

    def _compile(self) -> Tensor:
        """Compile the forward and run it.

        Raises:
            ConfigError: It cannot be compiled here.
        """
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_SHAPES)
        begin = time.perf_counter()
        step = torch.compile(self._forward, dynamic=False)
        try:
            logits = step()
        except Exception as error:
            raise ConfigError(
                f"compile='on': the step of {type(self.llm.model).__name__} cannot be compiled here "
                f"({(str(error).splitlines() or [''])[0][:300]}). Install a C++ compiler (g++), or use compile='auto'."
            ) from error
        self._compiled = step
        if (seconds := time.perf_counter() - begin) > 1:  # otherwise this process knew it
            logger.warning(
                "compile='on': compiling the step of %d rows and %d slots took %.0f s.",
                self.cache.n, self.cache.length, seconds,
            )  # fmt: skip
        return logits

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
