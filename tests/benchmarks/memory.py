"""Peak memory against its plan, each in a process of its own: ``make bench-memory``.

Tensors are counted, and so is the memory of the process: the most it had (VmHWM of /proc, Linux only), minus what it
had before with the model loaded and one row done, plus the weights. On a GPU it is what torch took there at most.
glibc is told to give freed memory back at once: else the process holds on to pieces below 32 MiB, which made 26% of the
peak of `tiny` at 256 rows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))
from tensor_bytes import make_references, play

from kv_gym.agents import load_agent
from kv_gym.config import make_config
from kv_gym.engine.memory import Use
from kv_gym.llm.loading import load_llm


def resident(name: str) -> int:
    """A line of this process's status, bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(model: str, what: str, n: int, budget: int, every: int, agent: str, device: str, dtype: str) -> None:
    """Print one measurement as JSON."""
    mode = what if what in ("generate", "replay") else "generate"
    config = make_config(
        "KVEvict-AIME-v0", model=model, device=device, dtype=dtype, budget=budget, evict_every=every, mode=mode,
        shadow=False, max_prompt_tokens=64, max_new_tokens=budget + 8 * every,
    )  # fmt: skip
    llm = load_llm(model, dtype=dtype, device=device)

    def run(rows: int) -> tuple[int, Use]:
        return (
            make_references(llm, config, rows) if what == "references" else play(llm, config, load_agent(agent), rows)
        )

    run(1)  # libraries that are read when they are first used
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the most so far: reading a model takes more for a moment
    tensors, plan = run(n)
    taken = resident("VmHWM") - before + plan.kept["weights"]
    if device == "cuda":
        taken = torch.cuda.max_memory_allocated()
    print(json.dumps({"plan": plan.peak, "tensors": tensors, "process": taken}))


CASES = (
    ("tiny", "replay", 256, 128, 16, "h2o"),
    ("tiny", "generate", 256, 128, 16, "snapkv"),
    ("tiny", "replay", 256, 128, 16, "foresight"),
    ("tiny", "references", 256, 128, 16, "full"),
    ("runs/SmolLM2-135M-Instruct.Q4_1.gguf", "replay", 4, 512, 32, "h2o"),
    ("runs/SmolLM2-135M-Instruct.Q4_1.gguf", "generate", 4, 512, 32, "snapkv"),
)
GIVE_BACK = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}


def main(
    one: Annotated[str, typer.Option(help="Measure this case alone, as JSON.")] = "",
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Number format.")] = "float32",
) -> None:
    """Measure every case whose model is here."""
    if one:
        measure(*json.loads(one), device, dtype)
        return
    for case in CASES:
        if case[0].endswith(".gguf") and not Path(case[0]).is_file():
            continue
        command = [sys.executable, __file__, "--one", json.dumps(case), "--device", device, "--dtype", dtype]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=GIVE_BACK).stdout)
        gaps = [f"{name} {size / 2**20:.0f} MiB ({size / said['plan'] - 1:+.0%})" for name, size in said.items()]
        print(*case, ":", ", ".join(gaps), flush=True)


if __name__ == "__main__":
    typer.run(main)
