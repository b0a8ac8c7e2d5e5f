"""Tokens a second of generate mode against transformers' own batched greedy `generate`: ``make bench-speed``.

Same model, same width, same number of new tokens, same process; stop tokens are ignored on both sides so that both
write as much. The two take turns, and the median of the ratios is reported. Ours includes scoring, evicting and the
grading-free bookkeeping of `EpisodeBatch.step`; transformers' includes its prefill of the prompts (about 40 tokens).
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from typing import Annotated

import torch
import typer
from transformers.utils import logging as transformers_logging

from kv_gym.agents import AgentLike, load_agent
from kv_gym.bench.scoring import keep_scores
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source


def references(llm: FrozenLLM, config: EnvConfig, width: int) -> list[Reference]:
    """Return `width` playable validation problems with their references."""
    source = problem_source(config.problems)
    found = ReferenceStore(llm, config).get([source.problem("validation", 0, i) for i in range(width + 8)])
    return [reference for reference in found if is_playable(reference, config)][:width]


def ours(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, refs: list[Reference], steps: int) -> tuple[float, int]:
    """Return (tokens a second over all rows, KV bytes held per episode)."""
    batch = EpisodeBatch(llm, config, len(refs), statistics=agent.needs)
    batch.texts.stop_ids = batch.texts.stop_ids[:0]
    batch.reset(range(len(refs)), refs, [0] * len(refs))
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(steps):
            batch.step(keep_scores(agent, batch.slots()))
    seconds = time.perf_counter() - started
    assert batch.active.all(), "an episode ended early; its tokens would be missing"
    return len(refs) * steps * config.evict_every / seconds, batch.cache.nbytes


def theirs(llm: FrozenLLM, model: torch.nn.Module, refs: list[Reference], new_tokens: int) -> float:
    """Tokens a second of transformers' `generate` with its full cache."""
    prompts = llm.tokenizer([r.problem.prompt for r in refs], return_tensors="pt", padding=True, padding_side="left")
    inputs = {name: prompts[name].to(llm.shape.device) for name in ("input_ids", "attention_mask")}
    started = time.perf_counter()
    out = model.generate(**inputs, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens)  # type: ignore[operator]
    seconds = time.perf_counter() - started
    assert out.shape[1] - inputs["input_ids"].shape[1] == new_tokens
    return len(refs) * new_tokens / seconds


def main(
    agent: Annotated[str, typer.Option(help="Agent that scores.")] = "snapkv",
    width: Annotated[int, typer.Option(help="Episodes side by side.")] = 16,
    budget: Annotated[int, typer.Option(help="Slots that stay.")] = 128,
    tokens: Annotated[int, typer.Option(help="New tokens per episode.")] = 608,
    rounds: Annotated[int, typer.Option(help="Turns each side takes.")] = 5,
    model: Annotated[str, typer.Option(help="Frozen LLM.")] = "tiny",
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    compile: Annotated[str, typer.Option(help="The environment's setting: auto, on or off.")] = "auto",
) -> None:
    """Measure and print one JSON object."""
    transformers_logging.set_verbosity_error()
    config = make_config("KVEvict-AIME-v0", budget=budget, shadow=False, model=model, device=device, compile=compile)
    llm = load_llm(model, device=device)
    plain = copy.deepcopy(llm.model)
    plain.set_attn_implementation("sdpa")
    refs, scorer = references(llm, config, width), load_agent(agent)
    ratios, mine, other = [], [], []
    for turn in range(rounds + 1):
        speed, kv_bytes = ours(llm, config, scorer, refs, tokens // config.evict_every)
        full = theirs(llm, plain, refs, tokens // config.evict_every * config.evict_every)
        if turn:  # the first turn warms up
            mine.append(speed)
            other.append(full)
            ratios.append(speed / full)
    result = {
        "agent": agent, "compile": compile, "width": width, "budget": budget, "tokens": tokens,
        "threads": torch.get_num_threads(),
        "tokens_per_second": round(statistics.median(mine)),
        "generate_tokens_per_second": round(statistics.median(other)),
        "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
        "kv_bytes_per_episode": kv_bytes, "kv_bytes_of_budget_and_window": llm.shape.slot_bytes * config.slots,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
