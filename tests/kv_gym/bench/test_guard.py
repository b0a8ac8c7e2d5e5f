"""An agent that touches what it is shown fails with a sentence, and nobody after it plays another game."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kv_agents.base import Agent
from kv_agents.heuristics.random import Random
from kv_agents.learned.agents import Foresight, Transfer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.guard import AgentTooSlow, AgentTouched, AgentUnusable, building, time_limit
from kv_gym.bench.plan import Bench
from kv_gym.bench.rows import EpisodeRow, read_rows
from kv_gym.bench.switches import SWITCHES
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
    bench = Bench(ENV, agents, [24], 2, modes=["replay"], options=options, **{"width": 2, **changes})
    return run_bench(bench, folder / "rows.jsonl").rows


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    return [row.actions_sha256 for row in run([Random()], tmp_path_factory.mktemp("untouched"))]


def behind_torch(tensor: Tensor) -> None:
    """Write without torch's knowing."""
    tensor.numpy()[...] = 0


def at_model(act: Callable[[torch.nn.Module], Any]) -> Callable[[SlotView], Any]:
    """Do something to the model behind what is shown."""
    return lambda slots: act(slots._llm.model)


def sorted_behind_torch(slots: SlotView) -> None:
    """No sum of the same numbers tells this one."""
    slots._cache.keys.numpy().sort(axis=-2)


def hook(module: torch.nn.Module) -> None:
    module.register_forward_hook(lambda module, given, found: found * 0.9 if isinstance(found, Tensor) else found)


SEEN: dict[str, tuple[Callable[[SlotView], Any], str]] = {
    "keys": (lambda slots: slots.keys.zero_(), "slots' keys"),
    "values": (lambda slots: slots.values.mul_(2), "slots' values"),
    "one key": (lambda slots: slots.keys[0, 0, 0, 0].fill_(1), "slots' keys"),
    "keys as data": (lambda slots: slots.keys.data.zero_(), "slots' keys"),
    "keys through numpy": (lambda slots: behind_torch(slots.keys), "slots' keys"),
    "sorted keys": (sorted_behind_torch, "slots' keys"),
    "swapped keys": (lambda slots: slots.keys.data.copy_(slots.keys.data.flip(-2).clone()), "slots' keys"),
    "positions": (lambda slots: slots.positions.add_(1), "slots' positions"),
    "text_length": (lambda slots: slots.text_length.add_(1), "the texts' length"),
    "prompt_length": (lambda slots: slots.prompt_length.zero_(), "the texts' n_prompt"),
    "decision": (lambda slots: slots.decision.zero_(), "decision"),
    "seeds": (lambda slots: slots.seeds.data.add_(5), "seeds"),
    "statistics": (lambda slots: slots.total_attention.zero_(), "slots' total"),
    "a layer's keys": (lambda slots: next(slots.layers()).keys.zero_(), "slots' keys"),
}
SWITCHED: dict[str, tuple[Callable[[SlotView], Any], str]] = {
    "default dtype": (lambda slots: torch.set_default_dtype(torch.float64), "torch's default dtype and left it so"),
    "default device": (lambda slots: torch.set_default_device("meta"), "torch's default device"),
    "gradients": (lambda slots: torch.set_grad_enabled(True), "gradients and left it so"),
    "inference": (lambda slots: LEFT.append(torch.inference_mode()) or LEFT[-1].__enter__(), "inference mode"),  # type: ignore[func-returns-value]
    "autocast": (lambda slots: torch.autocast("cpu", dtype=torch.bfloat16).__enter__(), "autocast"),
    "threads": (lambda slots: torch.set_num_threads(torch.get_num_threads() + 1), "the number of torch's threads"),
    "precision": (lambda slots: torch.set_float32_matmul_precision("medium"), "the precision of matrix products"),
    "CUDA's precision": (lambda slots: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"), "CUDA's matrix"),
    "deterministic": (lambda slots: torch.use_deterministic_algorithms(True), "deterministic algorithms"),
    "cuDNN": (lambda slots: setattr(torch.backends.cudnn, "benchmark", True), "cuDNN's flags"),
    "oneDNN": (lambda slots: torch._C._set_mkldnn_enabled(False), "oneDNN"),
    "small numbers": (lambda slots: torch.set_flush_denormal(True), "the flushing of small numbers"),
    "a function mode": (lambda slots: Functions().__enter__(), "torch's function modes"),
    "a dispatch mode": (lambda slots: Dispatches().__enter__(), "torch's dispatch modes"),
    "numpy's errors": (lambda slots: np.seterr(all="raise"), "numpy's handling of errors"),
    "recursion": (lambda slots: sys.setrecursionlimit(5000), "the recursion limit"),
    "folder": (lambda slots: os.chdir("/"), "the working directory"),
    "stdout": (lambda slots: setattr(sys, "stdout", None), "sys.stdout"),
}
RAISED: dict[str, tuple[Callable[[SlotView], Any], str]] = {
    "sys.exit": (lambda slots: sys.exit("bye"), "SystemExit: bye"),
    "generator": (lambda slots: throw(GeneratorExit()), "GeneratorExit"),
    "cancelled": (lambda slots: throw(asyncio.CancelledError()), "CancelledError"),
    "memory": (lambda slots: throw(MemoryError("all of it")), "MemoryError: all of it"),
    "no message": (lambda slots: throw(Unspeakable()), "Unspeakable: (its message cannot be shown)"),
    "no text": (lambda slots: throw(ValueError("\x1b[2J\ud800x")), "ValueError:  [2J x"),
}
MODEL: dict[str, tuple[Callable[[SlotView], Any], str]] = {
    "weights": (at_model(lambda model: model.lm_head.weight.data.zero_()), "lm_head.weight"),
    "weights in place": (at_model(lambda model: model.lm_head.weight.mul_(2)), "lm_head.weight"),
    "weights through numpy": (at_model(lambda model: behind_torch(model.model.norm.weight.detach())), "norm.weight"),
    "weights, then an error": (
        at_model(lambda model: (model.model.norm.weight.data.mul_(2), throw(KeyError("x")))),
        "the model's model.norm",
    ),
    "a module": (at_model(lambda model: setattr(model.model.layers[0], "mlp", nn.Identity())), "layers.0.mlp"),
    "a parameter": (
        at_model(lambda model: setattr(model.model.norm, "weight", nn.Parameter(torch.ones(1), False))),
        "norm.weight",
    ),
    "a method": (at_model(lambda model: setattr(model.model.norm, "forward", abs)), "model.norm.forward"),
    "a hook": (at_model(lambda model: hook(model.model.layers[1])), "layers.1._forward_hooks"),
    "frequencies": (at_model(lambda model: model.model.rotary_emb.inv_freq.data.mul_(0.5)), "rotary_emb.inv_freq"),
    "a number": (at_model(lambda model: setattr(model.model.norm, "variance_epsilon", 5.0)), "norm.variance_epsilon"),
    "a scale": (at_model(lambda model: setattr(model.model.layers[0].self_attn, "scaling", 0.05)), "self_attn.scaling"),
    "training": (at_model(lambda model: model.train()), "the model's training"),
    "the config": (at_model(lambda model: setattr(model.config, "rms_norm_eps", 5.0)), "the model's config"),
    "the tokenizer": (lambda slots: slots._llm.tokenizer.add_tokens(["zzz"]), "the tokenizer's size"),
    "stop tokens": (lambda slots: setattr(slots._llm, "stop_ids", ()), "the LLM's stop_ids"),
}
TOUCHES = SEEN | SWITCHED | RAISED | MODEL
LEFT: list[Any] = []


class Functions(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class Once(Random):
    """Fails as long as something is broken that is not its own."""

    name = "once"

    def score(self, slots: SlotView) -> Tensor:
        if not hasattr(torch, "mended"):  # an attribute of its own would be a part of its identity
            raise MemoryError("for now")
        return super().score(slots)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise KeyError("message")


def throw(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("touch", TOUCHES)
def test_an_agent_that_touches_fails_and_the_next_one_plays_as_ever(
    touch: str, tmp_path: Path, untouched: list[str | None]
) -> None:
    act, said = TOUCHES[touch]
    before, streams, filters = {name: read() for name, (read, _) in SWITCHES.items()}, sys.stdout, warnings.filters[:]
    fingerprint = load_llm("tiny").fingerprint
    rows = run([Touching(act), Random()], tmp_path)
    failed = [row.failed for row in rows if row.agent == "touching"]
    assert all(reason is not None and said in reason for reason in failed), failed
    assert [row.actions_sha256 for row in rows if row.agent == "random"] == untouched
    assert {name: read() for name, (read, _) in SWITCHES.items()} == before
    assert sys.stdout is streams and warnings.filters == filters
    assert load_llm("tiny").fingerprint == fingerprint


def test_an_agents_own_state_is_its_own(tmp_path: Path) -> None:
    def act(slots: SlotView) -> None:
        slots.carry("mine").add_(1)
        slots.memory("ours", (2,)).add_(1)
        slots.keys.clone().zero_()
        slots.attention().zero_()  # computed for whoever asks
        slots.output_weights.zero_()

    assert all(row.failed is None for row in run([Touching(act)], tmp_path))


def test_what_is_made_for_one_agent_is_made_anew_for_the_next(tmp_path: Path) -> None:
    sums: list[float] = []
    again = lambda slots: sums.append(float(slots.output_weights.abs().sum()))  # noqa: E731
    run([Touching(lambda slots: slots.output_weights.zero_()), Touching(again)], tmp_path)
    assert sums and min(sums) > 0


def test_a_batch_that_fails_is_played_again_one_by_one(tmp_path: Path) -> None:
    """So that accuracy does not depend on how many episodes are side by side."""

    class Sometimes(Random):
        name = "sometimes"

        def score(self, slots: SlotView) -> Tensor:
            if bool((slots.seeds == 1).any()) and int(slots.decision.max()) == 2:
                raise ValueError("seed 1")
            return super().score(slots)

    wide = run([Sometimes()], tmp_path / "wide", seeds=3, width=6)
    narrow = run([Sometimes()], tmp_path / "narrow", seeds=3, width=1)
    assert [row.failed for row in wide] == [None, "ValueError: seed 1", None] * 2
    assert [row.actions_sha256 for row in wide] == [row.actions_sha256 for row in narrow]


def test_a_failure_is_played_again_by_the_next_run_and_then_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row.failed for row in run([Once()], tmp_path)] == ["MemoryError: for now"] * 2
    size = (tmp_path / "rows.jsonl").stat().st_size
    assert [row.failed for row in run([Once()], tmp_path)] == ["MemoryError: for now"] * 2
    assert (tmp_path / "rows.jsonl").stat().st_size == size, "the same failure is written once"
    monkeypatch.setattr(torch, "mended", True, raising=False)
    rows = run([Once()], tmp_path)
    assert [row.failed for row in rows] == [None, None]
    assert list(read_rows(tmp_path / "rows.jsonl").episodes.values()) == rows


def test_another_model_at_its_place_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_llm("tiny-domains")
    monkeypatch.setattr("kv_gym.llm.loading.load_llm", lambda *_: other)
    with pytest.raises(ConfigError, match="an agent changed the model 'tiny', and what is loaded anew is another"):
        run([Touching(MODEL["weights"][0]), Random()], tmp_path)
    assert all(row.agent == "touching" for row in read_rows(tmp_path / "rows.jsonl").episodes.values())


def test_after_a_change_agents_are_shown_the_model_that_they_play(tmp_path: Path) -> None:
    class Prepared(Random):
        name = "prepared"

        def prepare(self, llm: FrozenLLM) -> None:
            self._llm = llm

        def score(self, slots: SlotView) -> Tensor:
            assert self._llm is slots._llm
            return super().score(slots)

    rows = run([Touching(MODEL["weights"][0]), Prepared()], tmp_path)
    assert [row.failed for row in rows if row.agent == "prepared"] == [None, None]


def test_shipped_agents_touch_nothing(tmp_path: Path) -> None:
    bench = Bench(ENV, [Foresight(), Transfer()], [48], 2, modes=["replay"], width=2)
    assert all(row.failed is None for row in run_bench(bench, tmp_path / "rows.jsonl").rows)


@pytest.mark.parametrize("behind", [False, True])
def test_scaling_the_model_in_prepare_stops_the_run_before_any_row(behind: bool, tmp_path: Path) -> None:
    class Scales(Random):
        name = "scales"

        def prepare(self, llm: FrozenLLM) -> None:
            weight = llm.model.lm_head.weight
            (weight.data if behind else weight).mul_(2)

    with pytest.raises(AgentTouched, match=r"agent 'scales' changed .*lm_head.weight in prepare"):
        run([Random(), Scales()], tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == ""


SETUPS: dict[str, tuple[dict[str, Any], str]] = {
    "raises": ({"prepare": lambda self, llm: throw(ValueError("no weights"))}, "failed in prepare: ValueError: no wei"),
    "exits": ({"prepare": lambda self, llm: sys.exit(3)}, "failed in prepare: SystemExit: 3. Mend it"),
    "dtype": ({"prepare": lambda self, llm: torch.set_default_dtype(torch.float64)}, "torch's default dtype in prepar"),
    "threads": ({"prepare": lambda self, llm: torch.set_num_threads(3)}, "the number of torch's threads in prepare"),
    "many queries": ({"n_obs": 10**9}, "n_obs=1000000000. It is a number of queries, from 0 to 4096"),
    "less than none": ({"n_obs": -5}, "n_obs=-5"),
    "files is None": ({"files": lambda self: None}, r"files\(\) gives None. It returns a list"),
    "files is a text": ({"files": lambda self: "weights.bin"}, r"files\(\) gives 'weights.bin'"),
    "files is a folder": ({"files": lambda self: ["."]}, r"files\(\) gives \['.'\]"),
    "files raises": ({"files": lambda self: throw(KeyError("w"))}, r"failed in files\(\): KeyError: 'w'"),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_an_agent_that_cannot_be_set_up_stops_the_run_with_a_sentence(setup: str, tmp_path: Path) -> None:
    body, said = SETUPS[setup]
    before = {name: read() for name, (read, _) in SWITCHES.items()}
    with pytest.raises((AgentUnusable, AgentTouched), match=f"agent 'odd'.*{said}"):
        run([Random(), type("Odd", (Random,), {"name": "odd", **body})()], tmp_path)
    assert {name: read() for name, (read, _) in SWITCHES.items()} == before


def test_what_is_left_switched_when_an_agent_is_built_is_put_back(caplog: pytest.LogCaptureFixture) -> None:
    with building("agent 'odd'"):
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32
    assert "agent 'odd' changed torch's default dtype while it was built" in caplog.text


SCORES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda scores: None, "keep scores are NoneType, not a tensor"),
    "meta": (lambda scores: scores.to("meta"), "keep scores are on meta, the model is on cpu"),
    "sparse": (lambda scores: scores.to_sparse(), "keep scores are sparse_coo tensors of torch.float32"),
    "nested": (lambda scores: torch.nested.nested_tensor(list(scores)), "keep scores are nested tensors"),
    "complex": (lambda scores: scores.to(torch.complex64), "strided tensors of torch.complex64. Return a dense"),
    "tiny floats": (lambda scores: scores.to(torch.float8_e4m3fn), "torch.float8_e4m3fn. Return"),
    "quantized": (lambda scores: torch.quantize_per_tensor(scores.contiguous(), 0.1, 0, torch.qint8), "torch.qint8"),
    "a class of its own": (lambda scores: scores.as_subclass(Hostile), "a tensor of the class Hostile. Return a plain"),
}


class Hostile(Tensor):
    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise RuntimeError("hostile")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*quantiz")
@pytest.mark.parametrize("kind", SCORES)
def test_scores_of_another_kind_are_refused(kind: str, tmp_path: Path) -> None:
    make, said = SCORES[kind]
    body = {"name": "odd", "score": lambda self, slots: make(slots.positions.float())}
    for row in run([type("Odd", (Agent,), body)()], tmp_path):
        assert row.failed is not None and row.failed.startswith("ScoreError: ") and said in row.failed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_scores_may_be_any_real_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    body = {"name": "any", "score": lambda self, slots: slots.positions.to(dtype)}
    assert all(row.failed is None for row in run([type("Any", (Agent,), body)()], tmp_path))


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
