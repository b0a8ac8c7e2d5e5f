"""An agent that touches what it is shown fails with a sentence, and nobody after it plays another game."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.heuristics.random import Random
from kv_agents.learned.agents import Foresight, Transfer
from torch import Tensor

from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.guard import AgentTooSlow, AgentTouched, time_limit
from kv_gym.bench.plan import Bench
from kv_gym.bench.rows import EpisodeRow
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm

ENV = "KVEvict-AIME-v0"


class Touching(Agent):
    """Does something at a decision, then keeps the newest."""

    name = "touching"
    needs = ("total_attention",)

    def __init__(self, act: Callable[[SlotView], Any], at: int = 1) -> None:
        self._act, self._at = act, at

    def score(self, slots: SlotView) -> Tensor:
        if int(slots.decision.max()) == self._at:
            self._act(slots)
        return slots.positions.float()


def run(agents: list[Agent], folder: Path, **changes: Any) -> list[EpisodeRow]:
    options = {"evict_every": 8, "max_new_tokens": 72}
    bench = Bench(ENV, agents, [24], 2, modes=["replay"], width=2, options=options, **changes)
    return run_bench(bench, folder / "rows.jsonl").rows


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    return [row.actions_sha256 for row in run([Random()], tmp_path_factory.mktemp("untouched"))]


def behind_torch(tensor: Tensor) -> None:
    """Write without torch's knowing."""
    tensor.numpy()[...] = 0


TOUCHES: dict[str, tuple[Callable[[SlotView], Any], str]] = {
    "keys": (lambda slots: slots.keys.zero_(), "slots' keys"),
    "values": (lambda slots: slots.values.mul_(2), "slots' values"),
    "one key": (lambda slots: slots.keys[0, 0, 0, 0].fill_(1), "slots' keys"),
    "positions": (lambda slots: slots.positions.add_(1), "slots' positions"),
    "text_length": (lambda slots: slots.text_length.add_(1), "the texts' length"),
    "prompt_length": (lambda slots: slots.prompt_length.zero_(), "the texts' n_prompt"),
    "decision": (lambda slots: slots.decision.zero_(), "decision"),
    "seeds": (lambda slots: slots.seeds.zero_(), "seeds"),
    "statistics": (lambda slots: slots.total_attention.zero_(), "slots' total"),
    "a layer's keys": (lambda slots: next(slots.layers()).keys.zero_(), "slots' keys"),
    "weights": (lambda slots: slots._llm.model.lm_head.weight.data.zero_(), "the model's lm_head.weight"),
    "weights in place": (lambda slots: slots._llm.model.lm_head.weight.mul_(2), "the model's lm_head.weight"),
    "default dtype": (lambda slots: torch.set_default_dtype(torch.float64), "torch's default dtype and left it so"),
    "gradients": (lambda slots: torch.set_grad_enabled(True), "gradients and left it so"),
    "threads": (lambda slots: torch.set_num_threads(torch.get_num_threads() + 1), "the number of torch's threads"),
    "sys.exit": (lambda slots: sys.exit("bye"), "SystemExit: bye"),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_an_agent_that_touches_fails_and_the_next_one_plays_as_ever(
    touch: str, tmp_path: Path, untouched: list[str | None]
) -> None:
    act, said = TOUCHES[touch]
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    at = 0 if "weights" in touch else 1  # what torch does not count is seen by a checksum, at every sixteenth decision
    rows = run([Touching(act, at), Random()], tmp_path)
    failed = [row.failed for row in rows if row.agent == "touching"]
    assert all(reason is not None and said in reason for reason in failed), failed
    assert [row.actions_sha256 for row in rows if row.agent == "random"] == untouched or "weights" in touch
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (dtype, threads)


def test_what_torch_does_not_count_is_seen_by_its_sum(tmp_path: Path) -> None:
    rows = run([Touching(lambda slots: behind_torch(slots.keys), 0)], tmp_path)
    assert all("AgentTouched: it changed slots' keys. Agents look only" in str(row.failed) for row in rows)


def test_an_agents_own_state_is_its_own(tmp_path: Path) -> None:
    def act(slots: SlotView) -> None:
        slots.carry("mine").add_(1)
        slots.memory("ours", (2,)).add_(1)
        slots.keys.clone().zero_()

    assert all(row.failed is None for row in run([Touching(act)], tmp_path))


def test_shipped_agents_touch_nothing(tmp_path: Path) -> None:
    bench = Bench(ENV, [Foresight(), Transfer()], [48], 2, modes=["replay"], width=2)
    assert all(row.failed is None for row in run_bench(bench, tmp_path / "rows.jsonl").rows)


def test_changed_weights_are_loaded_anew(tmp_path: Path, untouched: list[str | None]) -> None:
    before = load_llm("tiny")
    run([Touching(lambda slots: slots._llm.model.lm_head.weight.mul_(2), 0)], tmp_path)
    assert load_llm("tiny") is not before and load_llm("tiny").fingerprint == before.fingerprint
    assert [row.actions_sha256 for row in run([Random()], tmp_path / "after")] == untouched


@pytest.mark.parametrize("behind", [False, True])
def test_scaling_the_model_in_prepare_stops_the_run_before_any_row(behind: bool, tmp_path: Path) -> None:
    class Scales(Random):
        name = "scales"

        def prepare(self, llm: FrozenLLM) -> None:
            weight = llm.model.lm_head.weight
            (weight.data if behind else weight).mul_(2)

    with pytest.raises(AgentTouched, match=r"agent 'scales' changed .*the model's lm_head.weight in prepare"):
        run([Random(), Scales()], tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == ""


def test_scores_with_gradients_are_refused(tmp_path: Path) -> None:
    class Learns(Agent):
        name = "learns"

        def score(self, slots: SlotView) -> Tensor:
            with torch.enable_grad():
                return slots.positions * torch.ones((), requires_grad=True)

    assert "keep scores carry gradients" in str(run([Learns()], tmp_path)[0].failed)


def test_a_slow_agent_is_stopped(tmp_path: Path) -> None:
    def forever(slots: SlotView) -> None:
        while True:
            time.sleep(0.01)

    clock = time.perf_counter()
    rows = run([Touching(forever), Random()], tmp_path, agent_seconds=0.5)
    assert "AgentTooSlow: a decision took longer than --agent-seconds 0.5" in str(rows[0].failed)
    assert rows[-1].failed is None and time.perf_counter() - clock < 10
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_limit_holds_where_nothing_can_be_stopped() -> None:
    found: list[str] = []

    def work() -> None:
        try:
            with time_limit(0.01):
                time.sleep(0.05)
        except AgentTooSlow as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["a decision took longer than --agent-seconds 0.01."]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_a_time(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="agent_seconds=.* is no time"):
        run([Random()], tmp_path, agent_seconds=seconds)
