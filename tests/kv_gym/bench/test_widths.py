"""Widths follow from the memory that is free, and what does not fit is refused before a model is read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_agents.golden import Golden
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.random import Random

from kv_gym.bench import benchmark, widths
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.bench.widths import Room, Widths, asked_by, even, find_widths, playing, references
from kv_gym.commands import main as cli
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.memory import Asked, MemoryPlan
from kv_gym.errors import ConfigError
from kv_gym.llm import device
from kv_gym.llm.loading import forget_llm, load_llm, model_sizes

ENV = "KVEvict-AIME-v0"
CPU, GPU = torch.device("cpu"), torch.device("cuda")
Run = Callable[..., tuple[int, str, str]]


def config(**options: Any) -> EnvConfig:
    return make_config(ENV, **{"shadow": False, **options})


def plan(**options: Any) -> MemoryPlan:
    return MemoryPlan(model_sizes("tiny"), config(**options), Asked())


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have so many bytes that may be used, on this machine or as if it were a GPU."""
    forget_llm()
    monkeypatch.setattr(widths, "is_loaded", lambda *model: False)

    def have(usable: int, where: torch.device = CPU) -> None:
        monkeypatch.setattr(widths, "find_device", lambda name: where)
        monkeypatch.setattr(widths, "free_memory", lambda device: usable)
        monkeypatch.setattr(widths, "usable", lambda memory, device: memory)

    return have


@pytest.mark.parametrize("wanted", ["auto", 500])
def test_as_many_as_fit_or_as_are_wanted(free: Callable[..., None], wanted: Any) -> None:
    free(2**40)
    assert find_widths(wanted, [config()], [Random()]) == (Widths(64, 64) if wanted == "auto" else Widths(500, 500))
    free(2**40, GPU)
    assert find_widths("auto", [config()], [Random()]).playing == widths.MOST_SIDE_BY_SIDE


def test_each_width_follows_from_its_own_peak(free: Callable[..., None]) -> None:
    memory = plan().playing(13).peak
    free(memory)
    found = find_widths("auto", [config()], [Random()])
    assert found.playing == 12 and plan().playing(12).peak <= memory  # 13 fit; 12 is the next even one
    fits = references(plan()).fits(Room(memory, CPU), 64)
    assert 0 < fits < 64 and found.references == even(fits) != found.playing
    wide = find_widths("auto", [config(), config(budget=192)], [Random()])
    assert wide.playing < 12  # the cell that takes most decides
    assert find_widths("auto", [config()], [FullCache()]).playing == 64  # nothing is played
    assert find_widths("auto", [config()], [Golden()]).playing < 12  # its labels


@pytest.mark.parametrize(
    ("n", "found"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 4), (7, 6), (13, 12), (23, 16), (63, 48), (64, 64)]
)
def test_widths_are_even_numbers(n: int, found: int) -> None:
    assert even(n) == found


@pytest.mark.parametrize(("where", "wanted"), [(CPU, "auto"), (GPU, "auto"), (GPU, 1)])
def test_what_does_not_fit_is_refused_with_the_numbers(
    free: Callable[..., None], where: torch.device, wanted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free(6 * 2**20, where)
    monkeypatch.setattr(benchmark, "load_llm", lambda *model: pytest.fail("weights were read"))
    said = r"'tiny' in float32 needs [0-9.]+ MiB \(weights 5.68 MiB, slots .*start of episodes .*6.00 MiB of (cpu|cuda)"
    with pytest.raises(ConfigError, match=said):
        run_bench(Bench(ENV, [Random()], [64], 2, width=wanted), tmp_path / "rows.jsonl")


def test_a_wanted_width_is_refused_on_a_gpu_and_warned_of_on_a_cpu(
    free: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    memory = max(plan().playing(20).peak, plan().references(3).peak)
    free(memory, GPU)
    with pytest.raises(ConfigError, match=r"for episodes, 5000 side by side.* fit: use --width"):
        find_widths(5000, [config()], [Random()])
    assert find_widths(2, [config()], [Random()]) == Widths(2, 2)
    free(memory)
    with caplog.at_level(logging.WARNING):
        found = find_widths(5000, [config()], [Random()])
    assert found.playing == 5000 and found.references < 100 and "5000 side by side" in caplog.text
    free(6 * 2**20)
    assert find_widths(3, [config()], [Random()]) == Widths(3, 1)


def test_weights_that_are_loaded_are_not_counted_again(
    free: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = playing(plan())
    free(both.use(4).peak)
    assert find_widths("auto", [config()], [Random()]).playing == 4
    monkeypatch.undo()
    free_bytes = both.use(4).peak - model_sizes("tiny").weights
    assert both.fits(Room(int(free_bytes / 0.8) + 1, CPU, whole=False), 64) == 4
    forget_llm()
    llm = load_llm("tiny", None, "float32", "cpu")
    assert widths.is_loaded("tiny", None, "float32", "cpu") and llm.name == "tiny"
    assert not widths.is_loaded("tiny", None, "bfloat16", "cpu")


def test_a_run_records_its_width_as_a_number(free: Callable[..., None], random_model: Path, tmp_path: Path) -> None:
    options = {"model": str(random_model), "max_new_tokens": 72, "evict_every": 8}
    bench = Bench(ENV, [Random()], [24], problems=3, modes=["replay"], options=options)
    free(2**40)
    first = run_bench(bench, tmp_path / "rows.jsonl")
    assert bench.width == "auto" and first.runs[0].width == 64
    again = run_bench(replace(bench, width=2), tmp_path / "rows.jsonl")
    assert again.n_new == 0  # rows are known whatever stood beside them


def test_free_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 100 kB\nMemAvailable:   42 kB\n")
    monkeypatch.setattr(device, "MEMINFO", file)
    assert device.free_memory(CPU) == 42 * 1024 and device.usable(1000, CPU) == 800 and device.usable(1000, GPU) == 900
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "none")
    assert (device.free_memory(CPU) or 0) > 2**28  # all that there is
    assert device.free_memory(torch.device("meta")) is None


def test_an_agent_is_asked_what_it_needs() -> None:
    assert asked_by(Golden()) == Asked(hindsight=True)
    assert asked_by(Random()).all_layers  # one stream of draws for all layers


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the program; return (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return call


def test_the_plan_is_told(run: Run) -> None:
    arguments = ("models", "plan", "tiny", "--env", ENV, "--agent", "h2o", "--budget", "128")
    code, out, _ = run(*arguments, "--device-memory", "1GiB")
    assert code == 0 and "weights" in out and "64 fit." in out and "1.00 GiB of cpu are free" in out
    code, out, _ = run(*arguments, "--device-memory", "1GB", "--json", "--width", "7")
    found = json.loads(out)
    expected = MemoryPlan(model_sizes("tiny"), config(mode="replay", budget=128), Asked(("total_attention",))).playing(
        7
    )
    assert code == 0 and found["free"] == 10**9 and found["usable"] == 8 * 10**8
    assert found["episodes"]["rows"] == 7 and found["episodes"]["peak"] == expected.peak
    fits = references(plan(mode="replay", budget=128)).fits(Room(10**9, CPU), 64)
    assert found["full-cache references"]["fit"] == fits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device-memory", "6MiB"), "needs"),
        (("--device-memory", "100MiB", "--width", "64"), "fit: use --width"),
        (("--device-memory", "much"), "is no size"),
        (("--width", "some"), "is no number of rows"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(run: Run, options: tuple[str, ...], said: str) -> None:
    code, _, err = run("models", "plan", "tiny", "--env", ENV, *options)
    assert code == 2 and err.startswith("ConfigError") and said in err
