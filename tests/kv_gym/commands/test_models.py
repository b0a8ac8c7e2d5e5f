"""`kv-gym models check` on models that hold, that end somewhere, and that do not hold; and benchmarks of the second."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, DiffLlamaConfig, MistralConfig

from kv_gym.commands import main as cli
from kv_gym.llm.loading import forget_llm
from kv_gym.llm.tiny.tokenizer import build_tokenizer

Run = Callable[..., tuple[int, str, str]]
SIZES: dict[str, Any] = {
    "vocab_size": 63, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the program in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KV_GYM_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            cli.main(list(arguments))
        forget_llm()
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, " ".join(captured.err.split())

    return call


def save(config: Any, folder: Path) -> None:
    AutoModelForCausalLM.from_config(copy.deepcopy(config)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_is_checked_in_its_own_type(run: Run, dtype: str) -> None:
    code, out, _ = run("models", "check", "tiny", "--dtype", dtype)
    assert code == 0 and out.count("holds") == 6 and "a text of 1024 tokens" in out
    assert ("5.0e-02" if dtype == "bfloat16" else "1.5e-02") in out


def test_a_length_that_ends_is_said_and_read_to_its_end(run: Run, tmp_path: Path) -> None:
    save(MistralConfig(**SIZES, sliding_window=200), tmp_path / "model")
    code, out, _ = run("models", "check", "model", "--tokens", "150")
    assert code == 0 and "a text of 150 tokens" in out
    code, out, _ = run("models", "check", "model")
    assert code == 0 and "a text of 200 tokens" in out
    assert "Right for texts of up to 200 tokens, because its sliding_attention layers" in " ".join(out.split())


def test_a_benchmark_with_longer_texts_is_refused_before_it_runs(run: Run, tmp_path: Path) -> None:
    save(MistralConfig(**SIZES, sliding_window=200), tmp_path / "model")
    code, _, err = run("bench", "KVEvict-AIME-v0", "--agent", "full", "--set", "model=model", "--out", "rows")
    assert code == 2 and "ConfigError: model 'model' is right for texts of up to 200 tokens" in err
    assert "max_new_tokens=900" in err and "Set max_new_tokens <= 8, or" in err
    assert not [path for path in (tmp_path / "cache").rglob("*.safetensors")], "no reference was made"


def test_a_text_that_takes_too_much_memory_is_refused(run: Run) -> None:
    code, _, err = run("models", "check", "tiny", "--tokens", "99999999")
    assert code == 2 and "--tokens 99999999: at most 8,192 are read" in err


def test_what_does_not_hold_is_shown(run: Run, tmp_path: Path) -> None:
    save(DiffLlamaConfig(**SIZES), tmp_path / "model")
    code, out, err = run("models", "check", "model")
    assert code == 1 and out.count("DOES NOT HOLD") == 2 and "It does not hold that evicting is masking" in err
    code, _, err = run("bench", "KVEvict-AIME-v0", "--agent", "full", "--set", "model=model", "--out", "rows")
    assert code == 2 and "UnprovenModelError: evicting slots of model" in err
