"""Tests never download anything, and all of them share one folder of reference generations, new for each run.

With KV_GYM_STRICT_SKIPS=1, as `.ci/run` has it, a skip whose reason is not in `ALLOWED_SKIPS` fails the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads only wait for each other
os.environ["KV_GYM_QUIET"] = "1"  # what takes long on a busy machine is said on stderr, which tests read
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # before huggingface_hub is imported

import pytest

ALLOWED_SKIPS = (
    "the recorded sets are not part of the repository",
    "RecordVideo needs moviepy",  # moviepy wants an older Pillow than kv-gym
    "needs a CUDA device",
    "RLlib is not installed, or not with the Gymnasium that it wants",  # kv-gym's own environment has a newer one
    "Tianshou is not installed",
)
"""What a machine that runs all tests may lack; a browser is not among it."""

_skips: dict[str, str] = {}  # reason by test


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        _skips[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")


def unexpected_skips() -> list[str]:
    """Tests that were skipped for no allowed reason."""
    return [f"{test}: {reason}" for test, reason in _skips.items() if reason not in ALLOWED_SKIPS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("KV_GYM_STRICT_SKIPS") and unexpected_skips():
        terminalreporter.section("skipped for no allowed reason (tests/conftest.py, ALLOWED_SKIPS)", red=True)
        for line in unexpected_skips():
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("KV_GYM_STRICT_SKIPS") and unexpected_skips() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this run stores its references."""
    folder = tmp_path_factory.mktemp("kv-gym-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KV_GYM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def random_llama() -> tuple[Any, Any]:
    """A random Llama with 2 layers, 4 query and 2 KV heads of 8, and its tokenizer, the embedded model's."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from kv_gym.llm.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(tokenizer), max_position_embeddings=2048, initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium; one for all tests of a file, because it takes seconds to start."""
    from browser import open_browser, why_not

    reason = why_not()
    if reason:
        pytest.skip(reason)
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
