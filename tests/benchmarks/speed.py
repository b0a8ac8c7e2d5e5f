"""How fast generate mode is on a CPU: ``make bench-speed`` prints the tables of docs/speed.md.

Against transformers' own batched greedy `generate`: same model, same width, same number of new tokens, same process;
stop tokens are ignored on both sides so that both write as much. The two take turns, and the median of the ratios is
told. Ours includes scoring, evicting and the bookkeeping of `EpisodeBatch.step`; transformers' includes its prefill of
the prompts (about 40 tokens).

Against kvpress's `DecodingPress` with SnapKV, where it is installed (``make build/kvpress``): prompts of one length,
side by side; and prompts as they come, which kvpress takes one by one and we all at once.

Agents against each other: they take turns too, a few windows each, and time is the processor's, so that other programs
on the machine weigh little. So is that of a window with the full cache that reads along, at the end of a long text; and
that of a replayed trace against reading it in equal chunks with the full cache, if `--model` and `--traces` are given.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from tensor_bytes import made_up

from kv_gym.agents import AgentLike, load_agent, prepare_agent, queries_of
from kv_gym.bench.scoring import keep_scores
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import EMBEDDED, load_llm
from kv_gym.problems import Problem, problem_source

ENV, TRACES = "KVEvict-AIME-v0", "KVEvict-Traces-v0"
MODEL = "tiny"
AGENTS = ("snapkv", "h2o", "rkv", "foresight", "transfer", "ppo")
REPLAYED = ("snapkv", "rkv", "h2o")
KVPRESS = Path("build/kvpress/bin/python")
ALONE = 4  # prompts that kvpress takes one by one
Row = dict[str, Any]


def references(llm: FrozenLLM, config: EnvConfig, width: int, alike: bool = False) -> list[Reference]:
    """Return `width` playable validation problems with their references; `alike`: their prompts have one length."""
    source, wanted = problem_source(config.problems), width + width // 2
    problems = [source.problem("validation", 0, index) for index in range(16 * width if alike else wanted)]
    if alike:
        by_length: dict[int, list[Problem]] = defaultdict(list)
        for problem in problems:
            by_length[len(llm.encode_prompt(problem.prompt))].append(problem)
        problems = max(by_length.values(), key=len)[:wanted]
    found = ReferenceStore(llm, config).get(problems)
    return [reference for reference in found if is_playable(reference, config)][:width]


def started(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, refs: list[Reference]) -> EpisodeBatch:
    """A batch at its first decision, whose texts do not end."""
    batch = EpisodeBatch(llm, config, len(refs), statistics=agent.needs, queries=queries_of(agent))
    batch.texts.stop_ids = batch.texts.stop_ids[:0]
    batch.reset(range(len(refs)), refs, [0] * len(refs))
    return batch


def ours(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, refs: list[Reference], steps: int) -> float:
    """Tokens a second over all rows."""
    batch = started(llm, config, agent, refs)
    begin = time.perf_counter()
    with torch.no_grad():
        for _ in range(steps):
            batch.step(keep_scores(agent, batch.slots()))
    seconds = time.perf_counter() - begin
    assert batch.active.all(), "an episode ended early; its tokens would be missing"
    return len(refs) * steps * config.evict_every / seconds


def theirs(llm: FrozenLLM, model: torch.nn.Module, refs: list[Reference], new_tokens: int) -> float:
    """Tokens a second of transformers' `generate` with its full cache."""
    prompts = llm.tokenizer([r.problem.prompt for r in refs], return_tensors="pt", padding=True, padding_side="left")
    inputs = {name: prompts[name].to(llm.shape.device) for name in ("input_ids", "attention_mask")}
    begin = time.perf_counter()
    out = model.generate(**inputs, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens)  # type: ignore[operator]
    seconds = time.perf_counter() - begin
    assert out.shape[1] - inputs["input_ids"].shape[1] == new_tokens
    return len(refs) * new_tokens / seconds


class KVPress:
    """kvpress in its own environment.

    Args:
        python: Of that environment.
    """

    def __init__(self, python: Path) -> None:
        worker, path = Path(__file__).with_name("kvpress_worker.py"), EMBEDDED[MODEL]
        command = [str(python), str(worker), str(path), str(torch.get_num_threads())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def speed(self, refs: list[Reference], new_tokens: int, config: EnvConfig) -> float:
        """Tokens a second of prompts of one length, side by side."""
        prompts = [reference.tokens[: reference.n_prompt].tolist() for reference in refs]
        asked = {"prompts": prompts, "new_tokens": new_tokens, "every": config.evict_every, "budget": config.budget}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return len(refs) * new_tokens / float(json.loads(self.process.stdout.readline())["seconds"])


def against_kvpress(llm: FrozenLLM, kvpress: KVPress, alike: bool, compile: str, tokens: int, rounds: int) -> Row:
    """Compare snapkv at budget 128, 16 rows, with kvpress: all at once on prompts of one length, else one by one."""
    config = make_config(ENV, budget=128, shadow=False, compile=compile)
    refs, agent, steps = references(llm, config, 16, alike), load_agent("snapkv"), tokens // config.evict_every
    mine, other = [], []
    for turn in range(rounds + 1):
        mine.append(ours(llm, config, agent, refs, steps))
        if alike:
            other.append(kvpress.speed(refs, steps * config.evict_every, config))
        else:
            each = [kvpress.speed([one], steps * config.evict_every, config) for one in refs[:ALONE]]
            other.append(statistics.harmonic_mean(each))
        if not turn:  # the first turn warms up
            mine, other = [], []
    prompts = "of one length" if alike else "as they come"
    return {"prompts": prompts, "compile": compile} | compared(mine, other, "kvpress")


def compared(mine: list[float], other: list[float], name: str) -> Row:
    """Two speeds that took turns."""
    ratios = [one / another for one, another in zip(mine, other, strict=True)]
    return {
        "tokens_per_second": round(statistics.median(mine)),
        f"{name}_tokens_per_second": round(statistics.median(other)),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def against_generate(llm: FrozenLLM, width: int, compile: str, tokens: int, rounds: int) -> Row:
    """Compare with `generate` at one width: snapkv at budget 128."""
    config = make_config(ENV, budget=128, shadow=False, compile=compile)
    plain = copy.deepcopy(llm.model)
    plain.set_attn_implementation("sdpa")
    refs, agent, steps = references(llm, config, width), load_agent("snapkv"), tokens // config.evict_every
    mine, other = [], []
    for turn in range(rounds + 1):
        speeds = ours(llm, config, agent, refs, steps), theirs(llm, plain, refs, steps * config.evict_every)
        if turn:  # the first turn warms up
            mine.append(speeds[0])
            other.append(speeds[1])
    return {"width": width, "compile": compile} | compared(mine, other, "generate")


def agents_beside(llm: FrozenLLM, width: int, budget: int, every: int, rounds: int) -> list[Row]:
    """Compare agents at one setting: CPU time of a step, and the share of it that scoring takes."""
    config = make_config(ENV, budget=budget, evict_every=every, shadow=False)
    agents = [load_agent(name) for name in AGENTS]
    for agent in agents:
        prepare_agent(agent, llm)
    refs = references(llm, config, width)
    batches = [started(llm, config, agent, refs) for agent in agents]
    steps: list[list[float]] = [[] for _ in agents]
    scores: list[list[float]] = [[] for _ in agents]
    for turn in range(rounds + 1):
        for agent, batch, step, score in zip(agents, batches, steps, scores, strict=True):
            begin = time.process_time()
            with torch.no_grad():
                chosen = keep_scores(agent, batch.slots())
                scored = time.process_time()
                batch.step(chosen)
            if turn:
                step.append(time.process_time() - begin)
                score.append(scored - begin)
    first = statistics.median(steps[0])
    return [
        {
            "agent": agent.name, "width": width, "budget": budget, "evict_every": every,
            "speed_of_snapkv": round(first / statistics.median(step), 2),
            "scoring_share": round(statistics.median(score) / statistics.median(step), 3),
        }
        for agent, step, score in zip(agents, steps, scores, strict=True)
    ]  # fmt: skip


def with_shadow(llm: FrozenLLM, tokens: int, windows: int) -> Row:
    """CPU milliseconds of the last windows of a long text, with and without the full cache that reads along."""
    found = {}
    for shadow in (False, True):
        config = make_config(
            ENV, mode="replay", budget=512, evict_every=128, shadow=shadow, max_new_tokens=tokens - 64,
            max_prompt_tokens=64,
        )  # fmt: skip
        batch, agent, spent = EpisodeBatch(llm, config, 1, ()), load_agent("streaming"), []
        batch.reset([0], made_up(config, 1, llm.n_vocabulary), [0])
        batch.drop_answers()
        while batch.active.any():
            with torch.no_grad():
                scores = keep_scores(agent, batch.slots())
            begin = time.process_time()
            batch.step(scores)
            spent.append(time.process_time() - begin)
            batch.drop_answers()
        found[shadow] = 1000 * statistics.median(spent[-windows:])
    ratio = found[True] / found[False]
    return {"tokens": tokens, "ms": round(found[False]), "ms_with_shadow": round(found[True]), "ratio": round(ratio, 2)}


def prefilled(model: torch.nn.Module, tokens: Tensor, chunk: int) -> float:
    """CPU seconds in which transformers reads a text [1, T] in chunks, with its full cache and all logits."""
    cache, begin = DynamicCache(), time.process_time()
    with torch.no_grad():
        for part in tokens.split(chunk, dim=1):
            model(input_ids=part, past_key_values=cache, use_cache=True)
    return time.process_time() - begin


def replayed(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, reference: Reference) -> float:
    """CPU seconds in which we do, evicting; the answer is left out."""
    begin = time.process_time()
    batch = started(llm, config, agent, [reference])
    with torch.no_grad():
        batch.drop_answers()
        while batch.active.any():
            batch.step(keep_scores(agent, batch.slots()))
            batch.drop_answers()
    return time.process_time() - begin


def against_prefill(model: str, traces: Path, rounds: int) -> list[Row]:
    """Replay one recorded trace at 512 slots, and read it in equal chunks with the full cache."""
    config = make_config(TRACES, model=model, problems=str(traces), dtype="float32", shadow=False)
    llm, source = load_llm(model, dtype="float32"), problem_source(config.problems)
    reference = ReferenceStore(llm, config).get([source.problem(config.split, 0, 0)])[0]
    plain = copy.deepcopy(llm.model)
    plain.set_attn_implementation("sdpa")
    agents = [load_agent(name) for name in REPLAYED]
    ratios: dict[str, list[float]] = {name: [] for name in REPLAYED}
    for _ in range(rounds):
        bare = prefilled(plain, reference.tokens[None], config.evict_every)
        for agent in agents:
            ratios[agent.name].append(replayed(llm, config, agent, reference) / bare)
    return [
        {"agent": name, "tokens": len(reference), "time_of_prefill": round(statistics.median(found), 2)}
        for name, found in ratios.items()
    ]


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    names = [name for name in rows[0] if name != "ratios"]
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    width: Annotated[list[int] | None, typer.Option(help="Episodes side by side; repeat for more.")] = None,
    compile: Annotated[list[str] | None, typer.Option(help="Setting `compile`; repeat for more.")] = None,
    tokens: Annotated[int, typer.Option(help="New tokens per episode.")] = 608,
    rounds: Annotated[int, typer.Option(help="Turns each side takes.")] = 5,
    kvpress: Annotated[Path, typer.Option(help="python of an environment that has kvpress.")] = KVPRESS,
    model: Annotated[str, typer.Option(help="Model that replays a trace.")] = "",
    traces: Annotated[Path | None, typer.Option(help="File of recorded traces for it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure and print."""
    transformers_logging.set_verbosity_error()
    llm, compiles = load_llm(MODEL), compile or ["off", "on"]
    found = {
        "generate": [against_generate(llm, w, c, tokens, rounds) for w in width or (16, 64) for c in compiles],
        "kvpress": [],
        "agents": [
            row
            for sizes in ((64, 128, 16), (16, 128, 16), (64, 96, 32))
            for row in agents_beside(llm, *sizes, rounds=rounds + 3)
        ],
    }
    if kvpress.is_file():
        other = KVPress(kvpress)
        found["kvpress"] = [
            against_kvpress(llm, other, alike, c, tokens, rounds) for alike in (True, False) for c in compiles
        ]
    found["shadow"] = [with_shadow(llm, tokens, windows=8) for tokens in (4096, 16384)]
    if model and traces:
        found["replay"] = against_prefill(model, traces, rounds)
    if as_json:
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__} | found))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("\n\n".join(table(rows) for rows in found.values() if rows))


if __name__ == "__main__":
    typer.run(main)
