"""What an agent is: a keep score for every slot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from kv_gym.engine.slots import SlotView
from kv_gym.identity import remembering
from kv_gym.llm.frozen import FrozenLLM


class Agent(ABC):
    """Decides which slots go. Subclasses give keep scores; the lowest unprotected slots are evicted.

    An agent keeps no state of its own between decisions: per-slot state lives in `slots.carry(name)`, which moves with
    its slots, per-episode state in `slots.memory(name, shape)`, and randomness comes from `slots.seeds` and
    `slots.decision`. So an episode does not depend on its batch. `score` is called once per decision.

    Attributes:
        name: What `--agent` calls it.
        needs: Which accumulators of `SlotView` it reads: `total_attention`, `decayed_attention`, `last_attended`,
            `longest_gap`. Only these are kept.
        uses_hindsight: Reads `slots.hindsight`. Such agents are reference lines and never ranked.
        evicts: False only for the full cache, which is not asked for scores.
    """

    name: str
    needs: tuple[str, ...] = ()
    uses_hindsight: ClassVar[bool] = False
    evicts: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let agents write down what they are built with: it is a part of their identity (`kv_gym.identity`)."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = remembering(cls.__init__)  # type: ignore[method-assign]

    def prepare(self, llm: FrozenLLM) -> None:  # noqa: B027  # most agents fit every model
        """See the model before the first episode. Raise a KVGymError to refuse it; move tensors to its device."""

    @abstractmethod
    def score(self, slots: SlotView) -> Tensor:
        """Return keep scores [N, L, H_kv, S], float; higher = keep. Ties go in favour of newer slots."""
