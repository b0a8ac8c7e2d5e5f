"""The memory plan: by hand for the shapes of known models, and against counted tensors on the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensor_bytes import make_references, play
from transformers import AutoModelForCausalLM, Qwen3Config

from kv_gym.agents import load_agent
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.memory import Asked, MemoryPlan, Use, in_words, widest
from kv_gym.llm.loading import load_llm, model_sizes
from kv_gym.llm.outline import ModelSizes, sizes_of

QWEN3: dict[str, Any] = {
    "vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}  # fmt: skip
SMALL = Qwen3Config(
    **QWEN3, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16
)  # Qwen3-1.7B
LARGE = Qwen3Config(
    **QWEN3, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32
)  # Qwen3-4B


def sizes(config: Any, device: str = "cuda") -> ModelSizes:
    with torch.device("meta"):
        return sizes_of(AutoModelForCausalLM.from_config(config), torch.bfloat16, torch.device(device))


def aime24(**options: Any) -> EnvConfig:
    """Texts of 1,024 + 32,768 tokens and more, 128 evicted at once."""
    return make_config("KVEvict-AIME24-v0", **{"budget": 4096, "mode": "generate", "shadow": False, **options})


@pytest.mark.parametrize(
    ("config", "weights", "slot"), [(SMALL, 1_720_574_976, 114_688), (LARGE, 4_022_468_096, 147_456)]
)
def test_weights_and_slots_of_known_models(config: Any, weights: int, slot: int) -> None:
    found = sizes(config)
    assert found.weights == pytest.approx(2 * weights, rel=1e-6)  # two bytes each; RoPE's 64 turns are buffers
    assert found.shape.slot_bytes == slot == 2 * config.num_hidden_layers * 8 * 128 * 2
    assert (found.hidden, found.inner, found.n_vocabulary) == (config.hidden_size, config.intermediate_size, 151936)


def test_slots_are_counted_by_hand() -> None:
    bare = MemoryPlan(sizes(SMALL), aime24(), Asked()).slots(3)
    slots, heads = 4096 + 128, 28 * 8
    queries = 28 * 16 * 128 * 128 * 2  # of the last window
    assert bare == 3 * (slots * 114_688 + slots * heads * 8 + queries)
    grouped = MemoryPlan(sizes(SMALL), aime24(), Asked(("total_attention",))).slots(3)
    assert grouped - bare == 3 * slots * heads * 2 * 4  # two query heads share a KV head
    gaps = MemoryPlan(sizes(SMALL), aime24(), Asked(("longest_gap",))).slots(3)
    assert gaps - bare == 3 * slots * heads * 2 * 8  # with last_attended, which it is made with
    more = MemoryPlan(sizes(SMALL), aime24(), Asked(queries=256)).slots(3)
    assert more - bare == 3 * queries


def test_full_caches_hold_whole_texts() -> None:
    config = aime24()
    text = config.max_prompt_tokens + config.max_new_tokens + config.max_answer_tokens + 2 * 128
    plan = MemoryPlan(sizes(LARGE), config, Asked())
    assert plan.references(5).kept["full cache"] == 5 * text * 147_456
    assert plan.references(5).moments["growth"] == 5 * text * 147_456 // 2  # old keys beside the new ones
    assert plan.playing(5).kept["shadow"] == 0
    read_along = MemoryPlan(sizes(LARGE), aime24(shadow=True), Asked()).playing(5)
    assert read_along.kept["shadow"] == 5 * text * 147_456 and "shadow" in read_along.moments


def test_golden_labels_lie_in_the_hosts_memory() -> None:
    config, asked = aime24(), Asked(hindsight=True)
    text = config.max_prompt_tokens + config.max_new_tokens + config.max_answer_tokens + 2 * 128
    labels = 2 * 36 * 8 * text * (1 + -(-(text - 4224) // 128)) * 2 * 2  # two rows, two labels, in half precision
    on_gpu = MemoryPlan(sizes(LARGE), config, asked).playing(2)
    assert on_gpu.host == labels and on_gpu.kept["golden labels"] == 0
    assert 2 * 32 * 128 * text > 2**26  # so a part of the rows at once: three copies in float32
    one_block = 3 * 4 * 2**26 + 4 * 2 * 36 * 8 * text
    assert on_gpu.moments["golden labels"] == 2 * text * 147_456 + one_block
    on_cpu = MemoryPlan(sizes(LARGE, "cpu"), config, asked).playing(2)
    assert on_cpu.host == 0 and on_cpu.kept["golden labels"] == labels


def test_logits_and_attention_of_a_moment() -> None:
    plan = MemoryPlan(sizes(SMALL), aime24(mode="replay", temperature=0.0), Asked())
    assert plan.playing(10).moments["a token"] == 10 * 151936 * 16  # four copies in float32
    window = plan.playing(10).moments["a known window"] - plan.slots(10)
    assert window == 128 * 10 * 151936 * 16
    many = plan.playing(60).moments["a known window"] - plan.slots(60)
    assert many == 60 * 29 * 151936 * 16  # 2**28 logits at once are 29 tokens of each row
    drawn = MemoryPlan(sizes(SMALL), aime24(temperature=0.6), Asked()).playing(10).moments
    assert drawn["a token"] == 10 * 151936 * (16 + 48) and "a known window" not in drawn
    one = plan.playing(10).moments["a decision"]
    every = MemoryPlan(plan.sizes, plan.config, Asked(all_layers=True)).playing(10).moments["a decision"]
    attention, keys = 3 * 4 * 10 * 16 * 128 * 4224, 10 * 8 * 4224 * 128 * 4
    assert every - one == 27 * (attention + keys)


def test_a_peak_is_what_is_kept_and_the_fullest_moment() -> None:
    use = Use({"weights": 100, "slots": 20}, {"a": 5, "b": 7})
    assert (use.peak, use.fullest) == (127, "b")
    assert use.told() == "127 bytes (weights 100 bytes, slots 20 bytes; b 7 bytes)"
    assert [in_words(n) for n in (0, 1023, 1536, 5 * 2**30)] == ["0 bytes", "1023 bytes", "1.50 KiB", "5.00 GiB"]


@pytest.mark.parametrize(("memory", "rows"), [(109, 0), (110, 1), (129, 2), (10**9, 8)])
def test_the_widest_that_fits(memory: int, rows: int) -> None:
    use: Callable[[int], Use] = lambda n: Use({"weights": 100}, {"rows": 10 * n})  # noqa: E731
    assert widest(use, memory, 8) == rows


def test_sizes_of_the_embedded_model_are_those_it_has() -> None:
    llm, found = load_llm("tiny"), model_sizes("tiny")
    assert found.shape == llm.shape and found.n_vocabulary == llm.n_vocabulary
    held = (*llm.model.parameters(), *llm.model.buffers())
    assert found.weights == sum(tensor.nbytes for tensor in held)


@pytest.mark.parametrize(
    ("agent", "mode", "options"),
    [
        ("h2o", "replay", {}), ("snapkv", "generate", {}), ("foresight", "replay", {}), ("random", "generate", {}),
        ("h2o", "replay", {"shadow": True}),
    ],
)  # fmt: skip
def test_playing_takes_what_was_planned(agent: str, mode: str, options: dict[str, Any]) -> None:
    config = make_config(
        "KVEvict-AIME-v0", budget=128, mode=mode, **{"shadow": False, "max_new_tokens": 400, **options}
    )
    measured, planned = play(load_llm("tiny"), config, load_agent(agent), 32)
    assert measured == pytest.approx(planned.peak, rel=0.15)


@pytest.mark.parametrize("first", [pytest.param(1024, id="at once"), pytest.param(128, id="in steps")])
def test_references_take_what_was_planned(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("kv_gym.llm.cache.FIRST", "kv_gym.engine.memory.FIRST"):
        monkeypatch.setattr(place, first)
    config = make_config("KVEvict-AIME-v0", max_prompt_tokens=16, max_new_tokens=200, max_answer_tokens=1)
    measured, planned = make_references(load_llm("tiny"), config, 16)
    assert measured == pytest.approx(planned.peak, rel=0.15)
