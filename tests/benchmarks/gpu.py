"""The engine on a GPU, with random weights of Qwen3-4B's shape: ``make bench-gpu``.

What it measures, in kind the efficiency table of ForesightKV (arXiv:2602.03203): the full cache at 8K, 16K and 32K
tokens against 1K, 2K and 4K slots, each at the widest batch that fits. Texts are not written from their beginning:
caches are filled with random numbers as they would stand at that length, and two windows of 128 tokens are timed.
Results are written after every measurement, so that what was measured stays.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import transformers
import typer
from kv_agents.base import Agent
from kv_agents.heuristics.h2o import H2O
from kv_agents.heuristics.rkv import RKV
from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.heuristics.streaming import Streaming
from kv_agents.learned.inputs import all_of, needs_of, width
from kv_agents.learned.scorer import Scorer, ScorerConfig
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, StaticCache
from transformers.utils import logging as transformers_logging

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.scoring import keep_scores
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.episodes import EpisodeBatch, is_playable
from kv_gym.engine.eviction import slots_to_keep
from kv_gym.engine.reference import ReferenceStore
from kv_gym.llm.cache import FullCache
from kv_gym.llm.check import check_truths
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.llm.tiny.tokenizer import build_tokenizer
from kv_gym.llm.tokens import TokenReader, way_to_read
from kv_gym.problems import problem_source

FORESIGHT = ("unrotated_keys", "values", "statistics", "traits")


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        model: Options of Qwen3Config.
        dtype: Of the model.
        lengths: Of texts under the full cache, tokens.
        budgets: Slots of the evicting cache.
        every: Tokens between two evictions.
        memory: Bytes that batches may fill; None is what the device has free.
        compiled: Whether transformers' step is also compiled.
    """

    model: dict[str, Any]
    dtype: torch.dtype
    lengths: tuple[int, ...]
    budgets: tuple[int, ...]
    every: int
    memory: int | None = None
    compiled: bool = True


QWEN3_4B = Sizes(
    {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960, "rope_theta": 1e6,
    },
    torch.bfloat16, (8192, 16384, 32768), (1024, 2048, 4096), 128,
)  # fmt: skip
SMALL = Sizes(
    {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
    },
    torch.float32, (128, 256), (48, 64), 16, 2**22, False,
)  # fmt: skip


class RandomForesight(Agent):
    """The ForesightKV scorer of a model that nobody trained one for: its weights are random, its work is the same."""

    name = "foresight"
    scope = "model"

    def __init__(self, llm: FrozenLLM) -> None:
        columns, shape = all_of(FORESIGHT), llm.shape
        config = ScorerConfig(FORESIGHT, 32, False, shape.n_layers, shape.n_kv_heads, width(columns, shape), columns)
        self.scorer = Scorer(config).to(shape.device).requires_grad_(False)
        self.needs = needs_of(columns)

    def score(self, slots: Any) -> Tensor:
        """Run the scorer."""
        return self.scorer.score(slots)


@dataclass
class Report:
    """The JSON object, kept in a file as it grows.

    Attributes:
        path: Where it is written; None keeps it here.
        found: What was measured so far.
    """

    path: Path | None
    found: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def add(self, part: str, value: Any) -> None:
        """Write a result down; lists grow."""
        if isinstance(value, dict) and part in self.found:
            self.found[part].append(value)
        else:
            self.found[part] = [value] if isinstance(value, dict) else value
        print(f"{time.perf_counter() - self.started:5.0f} s  {part}: {json.dumps(value)}", flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def clock(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(run: Callable[[], object], device: torch.device, times: int) -> float:
    """Median seconds of a run, behind one that warms up."""
    run()
    found = []
    for _ in range(times):
        begin = clock(device)
        run()
        found.append(clock(device) - begin)
    return sorted(found)[times // 2]


def peak(device: torch.device) -> int:
    """Most bytes that tensors held since `forget_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def clean(device: torch.device) -> None:
    """Give memory back, and forget the peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def widest(measure: Callable[[int], dict[str, Any]], first: int, device: torch.device) -> dict[str, Any]:
    """Measure at the widest batch that fits, from `first` rows down."""
    n = max(1, first)
    while True:
        clean(device)
        try:
            return measure(n)
        except torch.OutOfMemoryError:
            if n == 1:
                return {"rows": 0, "error": "one row does not fit"}
        n = max(1, int(n * 0.85))


def random_model(sizes: Sizes, device: torch.device) -> Any:
    """A Qwen3 of that shape with random weights."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(sizes.dtype)
    try:
        with device:
            return Qwen3ForCausalLM(Qwen3Config(**sizes.model)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def free_bytes(sizes: Sizes, device: torch.device) -> int:
    """Bytes that a batch may fill."""
    if sizes.memory is not None or device.type != "cuda":
        return sizes.memory or 2**22
    clean(device)
    return torch.cuda.mem_get_info(device)[0]


def env_config(sizes: Sizes, budget: int, length: int) -> EnvConfig:
    """Settings of an env whose texts get that long."""
    return make_config(
        "KVEvict-AIME-v0", budget=budget, evict_every=sizes.every, shadow=False, max_new_tokens=length + 4096,
        dtype=str(sizes.dtype).removeprefix("torch."),
    )  # fmt: skip


def standing_batch(llm: FrozenLLM, config: EnvConfig, agent: AgentLike, n: int, length: int) -> EpisodeBatch:
    """A batch whose episodes stand at a decision after `length` tokens, with a cache of random numbers."""
    batch = EpisodeBatch(llm, config, n, statistics=agent.needs, queries=queries_of(agent))
    cache, device = batch.cache, llm.shape.device
    for layer in range(llm.shape.n_layers):
        for tensor in (cache.keys, cache.values, cache.queries):
            tensor[layer].normal_()
    older = torch.rand(length - config.evict_every, device=device).argsort()[: config.budget].sort().values
    newest = torch.arange(length - config.evict_every, length, device=device)
    cache.positions.copy_(torch.cat([older, newest]))
    cache.query_positions.copy_(torch.arange(length - cache.n_obs, length, device=device))
    cache.length, cache.scale = config.slots, 1 / math.sqrt(llm.shape.head_dim)
    for tensor in cache.statistics.values():
        tensor.fill_(1)
    texts = batch.texts
    texts.length[:], texts.n_prompt[:], texts.end[:] = length, 100, texts.tokens.shape[1]
    texts.stop_ids = texts.stop_ids[:0]
    batch.active[:] = True
    return batch


def evicting(llm: FrozenLLM, sizes: Sizes, agent: AgentLike, budget: int, length: int, n: int) -> dict[str, Any]:
    """Time two windows with evictions: tokens a second, and where the time goes."""
    device, config = llm.shape.device, env_config(sizes, budget, length)
    batch = standing_batch(llm, config, agent, n, length)
    spent = {"score": 0.0, "evict": 0.0, "write": 0.0}

    def window() -> None:
        for name, work in (("score", score), ("evict", evict), ("write", batch.write)):
            begin = clock(device)
            work()
            spent[name] += clock(device) - begin

    def score() -> None:
        held.append(keep_scores(agent, batch.slots()))

    def evict() -> None:
        batch.evict(slots_to_keep(held.pop(), batch.protected, config.evict_every))

    held: list[Tensor] = []
    with torch.no_grad():
        window()  # records the forward
        spent |= dict.fromkeys(spent, 0.0)
        before = clock(device)
        window()
        window()
        seconds = clock(device) - before
    tokens = 2 * config.evict_every
    return {
        "slots": config.slots, "budget": budget, "length": length, "agent": agent.name, "rows": n,
        "tokens_per_second": round(n * tokens / seconds, 1), "ms_per_token": round(1e3 * seconds / tokens, 3),
        **{f"share_{name}": round(value / seconds, 4) for name, value in spent.items()},
        "peak_bytes": peak(device), "row_bytes": llm.shape.slot_bytes * config.slots,
    }  # fmt: skip


def full(llm: FrozenLLM, sizes: Sizes, length: int, n: int) -> dict[str, Any]:
    """Time a window under our full cache."""
    device = llm.shape.device
    cache = FullCache(llm.shape, n, length)
    cache.keys, cache.values = cache._empty(length), cache._empty(length)
    for layer in range(llm.shape.n_layers):
        cache.keys[layer].normal_()
        cache.values[layer].normal_()
    reader = TokenReader(llm, cache, way_to_read(device))
    reader.positions.fill_(length - 1)

    def window() -> None:
        for _ in range(sizes.every // 4):
            cache.open(reader.positions[:, None], length)
            reader.read()

    seconds = seconds_of(window, device, 3) / (sizes.every // 4)
    return {
        "length": length, "rows": n, "tokens_per_second": round(n / seconds, 1),
        "ms_per_token": round(1e3 * seconds, 3), "peak_bytes": peak(device), "row_bytes": llm.shape.slot_bytes * length,
    }  # fmt: skip


def theirs(model: Any, sizes: Sizes, length: int, n: int, compiled: bool) -> dict[str, Any]:
    """Time transformers' decoding step on its static cache, compiled as `generate` does it."""
    device = next(model.parameters()).device
    cache: Any = StaticCache(config=model.config, max_cache_len=length)
    tokens = torch.zeros(n, 1, dtype=torch.long, device=device)
    places = torch.tensor([length - 1], device=device)
    call = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False) if compiled else model.forward

    def step() -> None:
        call(input_ids=tokens, past_key_values=cache, cache_position=places, position_ids=places.expand(n, 1),
             use_cache=True)  # fmt: skip

    begin = clock(device)
    with torch.no_grad():
        step()
        first = clock(device) - begin
        seconds = seconds_of(step, device, 9)
    return {
        "length": length, "rows": n, "compiled": compiled, "tokens_per_second": round(n / seconds, 1),
        "ms_per_token": round(1e3 * seconds, 3), "first_step_seconds": round(first, 1), "peak_bytes": peak(device),
    }  # fmt: skip


def truths(dtype: str, device: torch.device) -> dict[str, Any]:
    """How well the truths hold on the embedded model."""
    found = check_truths(load_llm("tiny", dtype=dtype, device=str(device)))
    return {"dtype": dtype} | {truth.claim: [truth.gap, truth.allowed, truth.held] for truth in found}


def same_tokens(dtype: str, device: torch.device) -> dict[str, Any]:
    """Whether recorded forwards write what eager ones do, on 64 validation problems of the embedded model."""
    llm = load_llm("tiny", dtype=dtype, device=str(device))
    config = make_config("KVEvict-AIME-v0", budget=160, shadow=False, dtype=dtype, device=str(device))
    source = problem_source(config.problems)
    begin = clock(device)
    references = ReferenceStore(llm, config).get([source.problem("validation", 0, i) for i in range(72)])
    playable = [reference for reference in references if is_playable(reference, config)][:64]
    spent, texts, right = clock(device) - begin, [], []
    for how in ("eager", way_to_read(device)):
        batch = EpisodeBatch(llm, config, len(playable), statistics=())
        batch.reader = TokenReader(llm, batch.cache, how)  # type: ignore[arg-type]
        batch.reset(range(len(playable)), playable, [0] * len(playable))
        agent = RKV()
        while batch.active.any():
            batch.step(keep_scores(agent, batch.slots()))
        texts.append([batch.texts.text(row) for row in range(len(playable))])
        right.append(sum(float(batch.record(row).correct) for row in range(len(playable))))
    equal = sum(one == other for one, other in zip(*texts, strict=True))
    return {
        "dtype": dtype, "problems": len(playable), "equal_texts": equal, "right_eager": right[0],
        "right_recorded": right[1], "right_full": sum(r.correct for r in playable),
        "reference_seconds": round(spent, 1),
    }  # fmt: skip


def ceilings(device: torch.device) -> dict[str, float]:
    """What the device reaches: bytes a second of a copy, operations a second of a matrix product."""
    size = 2**31 if device.type == "cuda" else 2**24
    one = torch.empty(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    copy = seconds_of(functools.partial(other.copy_, one), device, 9)
    side = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = seconds_of(lambda: a @ b, device, 9)
    return {"copy_bytes_per_second": 2 * size / copy, "matmul_flops": 2 * side**3 / product}


def attention_ways(sizes: Sizes, n: int, slots: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds of one layer's attention of one token, by how it is computed."""
    heads, kv, wide = (sizes.model[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    group = heads // kv
    query = torch.randn(n, kv, group, wide, device=device, dtype=sizes.dtype)
    key, value = (torch.randn(n, kv, slots, wide, device=device, dtype=sizes.dtype) for _ in range(2))
    mask = torch.zeros(slots, device=device, dtype=sizes.dtype)

    def product() -> Tensor:
        logits = torch.matmul(query, key.transpose(-1, -2)).float() / math.sqrt(wide) + mask
        return torch.matmul(logits.softmax(-1).to(sizes.dtype), value)

    ways: dict[str, Callable[[], Tensor]] = {
        "sdpa_masked": lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(group, -1)),
        "sdpa_free": lambda: F.scaled_dot_product_attention(query, key, value),
        "products": product,
    }
    found: dict[str, Any] = {"rows": n, "slots": slots, "bytes": 2 * key.nbytes}
    for name, way in ways.items():
        found[f"{name}_ms"] = round(1e3 * seconds_of(lambda way=way: [way() for _ in range(10)], device, 5) / 10, 4)
    return found


def main(
    out: Annotated[Path | None, typer.Option(help="File for the JSON object.")] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cuda",
    small: Annotated[bool, typer.Option(help="Small sizes, for a try on a CPU.")] = False,
    seconds: Annotated[float, typer.Option(help="Stop starting measurements after so many.")] = 420,
    part: Annotated[list[str] | None, typer.Option(help="Only these parts.")] = None,
) -> None:
    """Measure and print."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    sizes, place, report = SMALL if small else QWEN3_4B, torch.device(device), Report(out)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    report.add("machine", {"device": name, "torch": torch.__version__, "transformers": transformers.__version__})

    def attempt(what: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure, if that is wanted and there is time; what fails is written down, and the rest goes on."""
        if (part and what not in part) or time.perf_counter() - report.started > seconds:
            return
        try:
            report.add(what, measure())
        except Exception:
            report.add("errors", {"part": what, "error": traceback.format_exc()[-1500:]})
        clean(place)

    for dtype in ("float32", "bfloat16"):
        attempt("truths", lambda d=dtype: truths(d, place))
        attempt("same_tokens", lambda d=dtype: same_tokens(d, place))
    attempt("ceilings", lambda: ceilings(place))
    for n, slots in ((96, sizes.budgets[0] + sizes.every), (12, sizes.lengths[-1])):
        attempt("attention", lambda n=n, slots=slots: attention_ways(sizes, n, slots, place))
    begin = clock(place)
    model = random_model(sizes, place)
    llm = FrozenLLM(model, build_tokenizer(), "random Qwen3")
    weights = sum(p.nbytes for p in model.parameters())
    report.add("model", {"weight_bytes": weights, "seconds": round(clock(place) - begin, 1)})

    def rows(share: float, slots: int) -> int:
        """Rows of so many slots that fill a share of the memory that is free."""
        return int(share * free_bytes(sizes, place) / (llm.shape.slot_bytes * slots))

    for length in sizes.lengths:
        run = functools.partial(full, llm, sizes, length)
        attempt("full", lambda run=run, t=length: widest(run, rows(0.94, t), place))
    agents = [Streaming(), SnapKV(), RKV(), RandomForesight(llm), H2O()]
    length = sizes.lengths[-1]
    for budget in sizes.budgets:
        for agent in agents if budget == sizes.budgets[0] else agents[1:4]:
            run = functools.partial(evicting, llm, sizes, agent, budget, length)
            attempt("evicting", lambda run=run, b=budget: widest(run, rows(0.75, b + 2 * sizes.every), place))
            if budget == sizes.budgets[0]:
                attempt("evicting", lambda run=run, b=budget: widest(run, min(96, rows(0.75, b)), place))
    model.set_attn_implementation("sdpa")
    for compiled in (False, True) if sizes.compiled else (False,):
        run = functools.partial(theirs, model, sizes, length, compiled=compiled)
        attempt("theirs", lambda run=run: widest(run, rows(0.8, length), place))
    report.add("seconds", {"all": round(time.perf_counter() - report.started)})


if __name__ == "__main__":
    typer.run(main)
