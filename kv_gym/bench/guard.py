"""Agents look and do not touch: what an agent changes, or leaves switched, makes it fail with a sentence.

What an agent is shown is told by its version, which every change in place raises, and by an exact checksum, before and
after every decision. The model is told by its versions at every decision, and completely before any row of an episode
that has ended is written, and whenever an agent raised. Switches of torch and of the process are put back.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kv_gym.agents import AgentLike, prepare_agent
from kv_gym.bench.checksums import Snapshot
from kv_gym.bench.model_state import forget_derived, model_state
from kv_gym.bench.switches import switches_kept
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.errors import KVGymError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import forget_llm

MOST_QUERIES = 4096  # that an agent may ask for with `n_obs`: they are held for every episode
MAX_REASON_CHARS = 500

logger = logging.getLogger(__name__)


class AgentTouched(KVGymError):
    """An agent changed what it was shown, or a switch of torch or the process."""


class ModelTouched(AgentTouched):
    """An agent changed the model, which nobody else may get: `load_llm` loads it anew from now on."""


class AgentTooSlow(KVGymError):
    """An agent took longer than it may."""


class AgentUnusable(KVGymError):
    """An agent failed before its first episode, or says of itself what cannot be."""


class Guard:
    """Watches one agent while it scores the episodes of one batch.

    Args:
        batch: The episodes.
        seconds: Longest time of a decision; None is without limit.
    """

    def __init__(self, batch: EpisodeBatch, seconds: float | None = None) -> None:
        self.batch, self.seconds = batch, seconds
        self._model = model_state(batch.llm)
        forget_derived(batch.llm)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch one decision.

        Raises:
            ModelTouched: Weights were changed, as far as torch counts (`check_model` looks at everything).
            AgentTouched: Says what else was changed.
            AgentTooSlow: The limit.
        """
        shown = Snapshot(self.batch.shown())
        with switches_kept() as turned, time_limit(self.seconds):
            yield
        if self._model.written():
            self.check_model()
        if changed := shown.changes():
            raise AgentTouched(f"it changed {_listed(changed)}. Agents look only: work on a copy (`tensor.clone()`).")
        if turned:
            raise AgentTouched(f"it changed {_listed(turned)} and left it so. Put it back before `score` returns.")

    def check_model(self) -> None:
        """Compare the whole model with what it was.

        Raises:
            ModelTouched: Says what is other.
        """
        changed = self._model.changes(self.batch.llm)
        if changed:
            forget_llm()
            raise ModelTouched(
                f"it changed {_listed(changed)}. The model is frozen: work on a copy (`weight.clone()`)."
            )


def prepare_watched(llm: FrozenLLM, agent: AgentLike) -> None:
    """Let an agent see the model before its first episode.

    Raises:
        ModelTouched: It changed the model.
        AgentTouched: It left something switched.
        AgentUnusable: It raised; or its `n_obs` or `files()` cannot be.
        KVGymError: It refuses the model.
    """
    state, who = model_state(llm), f"agent {agent.name!r}"
    failure: BaseException | None = None
    with switches_kept() as turned:
        try:
            prepare_agent(agent, llm)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit(): no agent ends the program
            failure = error
    if changed := state.changes(llm):
        forget_llm()
        raise ModelTouched(
            f"{who} changed {_listed(changed)} in prepare. The model is frozen: work on a copy (`weight.clone()`). It "
            "will be loaded anew."
        )
    if isinstance(failure, KVGymError):
        raise failure
    if failure is not None:
        raise AgentUnusable(f"{who} failed in prepare: {reason_of(failure)}. Mend it, or leave it out.") from failure
    if turned:
        raise AgentTouched(
            f"{who} changed {_listed(turned)} in prepare and left it so. Put it back before `prepare` returns."
        )
    _check_queries(agent, who)
    _check_files(agent, who)


def _check_queries(agent: AgentLike, who: str) -> None:
    found = getattr(agent, "n_obs", 0)
    if isinstance(found, int) and not 0 <= found <= MOST_QUERIES:
        raise AgentUnusable(f"{who} has n_obs={found}. It is a number of queries, from 0 to {MOST_QUERIES}.")


def _check_files(agent: AgentLike, who: str) -> None:
    """Refuse an agent whose files are none: they are part of what its rows are known by."""
    try:
        found: Any = getattr(agent, "files", list)()
    except Exception as error:
        raise AgentUnusable(f"{who} failed in files(): {reason_of(error)}. Mend it, or leave it out.") from error
    listed = isinstance(found, list | tuple) and all(isinstance(one, str | Path) for one in found)
    if not listed or any(Path(one).is_dir() for one in found):
        raise AgentUnusable(
            f"{who}: files() gives {found!r:.200}. It returns a list of the files that the agent reads."
        )


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """Put back what an agent's file and its `__init__` leave switched, and say so once: agents after it share it."""
    with switches_kept() as turned:
        yield
    if turned:
        logger.warning("%s changed %s while it was built; that was put back.", what, _listed(turned))


def reason_of(error: BaseException) -> str:
    """Class and message of what an agent raised: one bounded line that can be shown, whatever the message is."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    text = f"{type(error).__name__}: {message}"[:MAX_REASON_CHARS]
    return "".join(one if one.isprintable() else " " for one in text)


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
