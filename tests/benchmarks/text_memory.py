"""Memory against the length of the text, from 1k to 32k tokens: ``make bench-memory`` draws it.

A small random model reads one text with 512 slots, an eviction every 128 tokens. Tensors are counted, without the
weights: of an episode of `h2o` (whose accumulators are kept), of the full cache that reads along with one, of making
the full cache's reference of a trace, and of golden labels. Golden labels are two numbers for each token and each block
of later queries: they grow with the square of the text, and lie in the host's memory where the device has its own.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from tensor_bytes import TensorBytes, made_up

from kv_gym.agents import load_agent
from kv_gym.bench.scoring import keep_scores
from kv_gym.bench.widths import asked_by
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.decoding import Decoding
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.golden import Labels
from kv_gym.engine.memory import MemoryPlan
from kv_gym.engine.reference import generate_references
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.outline import sizes_of
from kv_gym.llm.tiny.tokenizer import build_tokenizer
from kv_gym.problems import Problem

PLOT = Path(__file__).parents[2] / "docs/images/text-memory.png"
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
Curves = dict[str, list[int]]


def small_llm() -> FrozenLLM:
    """Two layers of two KV heads, random."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=2 * LENGTHS[-1], eos_token_id=2,
    )  # fmt: skip
    return FrozenLLM(Qwen3ForCausalLM(config), tokenizer, "small")


def settings(tokens: int, shadow: bool = False) -> EnvConfig:
    """An env whose texts are so long."""
    return make_config(
        "KVEvict-AIME-v0", mode="replay", budget=512, evict_every=128, shadow=shadow, max_prompt_tokens=64,
        max_new_tokens=tokens - 64,
    )  # fmt: skip


def episode(llm: FrozenLLM, tokens: int, shadow: bool = False) -> None:
    """Replay a text to its end."""
    agent, config = load_agent("h2o"), settings(tokens, shadow)
    batch = EpisodeBatch(llm, config, 1, asked_by(agent).statistics)
    batch.reset([0], made_up(config, 1, llm.n_vocabulary), [0])
    batch.drop_answers()
    while batch.active.any():
        batch.step(keep_scores(agent, batch.slots()))
        batch.drop_answers()


def reference(llm: FrozenLLM, tokens: int) -> None:
    """What the full cache thinks of a trace."""
    problem = Problem(id="0", prompt="1", answer="1", family="made up", trace="1" * (tokens - 64))
    list(generate_references(llm, [problem], [0], Decoding(), tokens - 64, 8))


def golden(llm: FrozenLLM, tokens: int) -> None:
    """Labels of every decision."""
    config = settings(tokens)
    Labels(llm, config, 1).start(torch.zeros(1, dtype=torch.long), made_up(config, 1, llm.n_vocabulary))


KINDS: dict[str, Callable[[FrozenLLM, int], None]] = {
    "an episode, 512 slots, h2o": episode,
    "the same, with a full cache that reads along": lambda llm, tokens: episode(llm, tokens, shadow=True),
    "full-cache reference of a trace": reference,
    "golden labels, with the labels": golden,
}
DEVICE = "golden labels, what a GPU would hold"


def measured(llm: FrozenLLM, kind: str, tokens: int) -> int:
    """Bytes of tensors at most, without the weights."""
    with TensorBytes(llm) as counted, torch.no_grad():
        before = counted.now
        KINDS[kind](llm, tokens)
    return counted.peak - before


def drawn(lengths: list[int], curves: Curves) -> Figure:
    """Both axes logarithmic; what is linear has the slope of the dotted line."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, sizes in curves.items():
        axes.plot(lengths, [size / 2**20 for size in sizes], marker="o", markersize=3, label=name)
    first = curves["full-cache reference of a trace"][0] / 2**20 / 3
    axes.plot(lengths, [first * one / lengths[0] for one in lengths], ":", color="grey", label="linear")
    axes.set(xscale="log", yscale="log", xlabel="tokens of the text", ylabel="MiB of tensors at most, without weights")
    axes.set_xticks(lengths, [f"{one // 1024}k" for one in lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    return figure


def main(
    most: Annotated[int, typer.Option(help="Longest text, tokens.")] = LENGTHS[-1],
    plot: Annotated[Path, typer.Option(help="Where the plot goes.")] = PLOT,
) -> None:
    """Measure, print and draw."""
    transformers_logging.set_verbosity_error()
    llm, lengths = small_llm(), [one for one in LENGTHS if one <= most]
    sizes = sizes_of(llm.model, llm.shape.dtype, llm.shape.device)
    hindsight = asked_by(load_agent("golden"))
    curves: Curves = {}
    for kind in KINDS:
        begin = time.perf_counter()
        curves[kind] = [measured(llm, kind, tokens) for tokens in lengths]
        print(f"{kind} ({time.perf_counter() - begin:.0f} s)", flush=True)
    labels = [MemoryPlan(sizes, settings(tokens), hindsight).labels(1) for tokens in lengths]
    curves[DEVICE] = [whole - own for whole, own in zip(curves["golden labels, with the labels"], labels, strict=True)]
    for name, found in curves.items():
        slope = math.log(found[-1] / found[0]) / math.log(lengths[-1] / lengths[0])
        print(json.dumps({"what": name, "MiB": [round(size / 2**20, 2) for size in found], "power": round(slope, 2)}))
    drawn(lengths, curves).savefig(plot, dpi=150)


if __name__ == "__main__":
    typer.run(main)
