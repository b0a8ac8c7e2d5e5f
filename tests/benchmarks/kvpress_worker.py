"""kvpress's half of ``make bench-speed``: runs in an environment of its own, whose transformers is another one.

Reads one JSON object a line from standard input (`prompts`: token ids, all of one length; `new_tokens`, `every`,
`budget`), generates for all of them at once, and answers with one line: the seconds that it took.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import torch
from kvpress import DecodingPress, SnapKVPress
from transformers import AutoModelForCausalLM
from transformers.utils import logging

WINDOW, KERNEL = 8, 7  # as kv-gym's snapkv


def main(path: str, threads: int) -> None:
    """Answer until the input ends."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # whatever else is printed
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for line in sys.stdin:
            asked = json.loads(line)
            ids = torch.tensor(asked["prompts"])
            press = DecodingPress(
                SnapKVPress(window_size=WINDOW, kernel_size=KERNEL), compression_interval=asked["every"],
                target_size=asked["budget"],
            )  # fmt: skip
            begin = time.perf_counter()
            with press(model), torch.no_grad():
                out = model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=asked["new_tokens"],
                    max_new_tokens=asked["new_tokens"],
                )  # fmt: skip
            seconds = time.perf_counter() - begin
            assert out.shape[1] == ids.shape[1] + asked["new_tokens"]
            print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
