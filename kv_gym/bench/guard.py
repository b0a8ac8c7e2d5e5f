"""Agents look and do not touch: what an agent changes, or leaves switched, makes it fail with a sentence.

Tensors are told by their version, which every change in place raises, and now and then by a checksum, which also sees
changes that torch does not count (through numpy, or `.data`). Weights are told by both.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kv_gym.agents import AgentLike, prepare_agent
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.errors import KVGymError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import forget_llm

CHECKSUM_EVERY = 16  # decisions between two checksums of what an agent sees


class AgentTouched(KVGymError):
    """An agent changed what it was shown, the model, or a switch of torch."""


class AgentTooSlow(KVGymError):
    """An agent took longer than it may."""


SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, torch.set_default_device),
    "gradients": (torch.is_grad_enabled, lambda on: torch._C._set_grad_enabled(on)),
    "the number of torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms,
    ),
}  # fmt: skip


class Guard:
    """Watches one agent while it scores the episodes of one batch.

    Args:
        batch: The episodes.
        seconds: Longest time of a decision; None is without limit.
    """

    def __init__(self, batch: EpisodeBatch, seconds: float | None = None) -> None:
        self.batch, self.seconds = batch, seconds
        self._decisions = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch one decision.

        Raises:
            AgentTouched: Says what was changed.
            AgentTooSlow: The limit.
        """
        tensors, weights = self.batch.shown(), weights_of(self.batch.llm)
        versions = {name: (tensor, tensor._version) for name, tensor in (tensors | weights).items()}
        summed = {**tensors, **weights} if self._decisions % CHECKSUM_EVERY == 0 else {}
        sums = checksums(summed)
        switches = {name: read() for name, (read, _) in SWITCHES.items()}
        self._decisions += 1
        try:
            with time_limit(self.seconds):
                yield
        finally:
            turned = [name for name, (read, _) in SWITCHES.items() if read() != switches[name]]
            for name in turned:
                SWITCHES[name][1](switches[name])
        changed = [name for name, (tensor, version) in versions.items() if tensor._version != version]
        changed += [name for name, total in checksums(summed).items() if total != sums[name] and name not in changed]
        if any(name in weights for name in changed):
            forget_llm()  # nobody else shall get the changed model
        if changed:
            raise AgentTouched(f"it changed {_listed(changed)}. Agents look only: work on a copy (`tensor.clone()`).")
        if turned:
            raise AgentTouched(f"it changed {_listed(turned)} and left it so. Put it back before `score` returns.")


def prepare_watched(llm: FrozenLLM, agent: AgentLike) -> None:
    """Let an agent see the model before its first episode.

    Raises:
        AgentTouched: It changed the model.
        KVGymError: It refuses the model.
    """
    weights = weights_of(llm)
    before, versions = checksums(weights), {name: weight._version for name, weight in weights.items()}
    prepare_agent(agent, llm)
    after = checksums(weights)
    changed = [n for n, weight in weights.items() if (weight._version, after[n]) != (versions[n], before[n])]
    if changed:
        forget_llm()
        raise AgentTouched(
            f"agent {agent.name!r} changed {_listed(changed)} in prepare. The model is frozen: work on a copy "
            "(`weight.clone()`). It will be loaded anew."
        )


def weights_of(llm: FrozenLLM) -> dict[str, Tensor]:
    """Weights of a model by name."""
    return {f"the model's {name}": tensor for name, tensor in llm.model.state_dict(keep_vars=True).items()}


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """A number for each tensor that changes when its contents do."""
    if not tensors:
        return {}
    plain = [one.detach().long() if one.dtype == torch.bool else one.detach() for one in tensors.values()]
    sums = [one.abs().sum(dtype=torch.float64) + one.sum(dtype=torch.float64) / 3 for one in plain]
    return dict(zip(tensors, torch.stack([one.cpu() for one in sums]).nan_to_num(7.0).tolist(), strict=True))


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Stop what runs inside after so many seconds.

    Where it cannot be stopped (outside the main thread, or without timers), it is refused when it ends.

    Raises:
        AgentTooSlow: It took longer.
    """
    if seconds is None:
        yield
        return

    def stop(*_: Any) -> None:
        raise AgentTooSlow(f"a decision took longer than --agent-seconds {seconds:g}.")

    timer = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    clock = time.perf_counter()
    before = signal.signal(signal.SIGALRM, stop) if timer else None
    if timer:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if time.perf_counter() - clock > seconds:
        stop()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
