"""Train an embedded model: ``python -m kv_gym.llm.tiny.train NAME``. About an hour on two cores; resumes by itself.

A Qwen3 model of 1.5 M parameters learns problems from their written-out solutions: `tiny` the AIME-format ones,
`tiny-domains` those of all made sources, beginning with the weights of `tiny`. Four things matter:

- *Curriculum*: short problems first, so that looking up and adding are learned on short texts.
- *Hidden slots*: after `hidden_from`, in three rows of four each older position is hidden from each KV head of each
  layer with a probability drawn per row. The model learns to keep what it needs in several places, and accuracy falls
  gradually, not at once, when slots go.
- *Polish*: at the end, problems whose values are easily mistaken for each other, and nothing hidden.
- *Muon* on the matrices (Jordan et al. 2024, as in torch.optim), AdamW on embeddings and norms; constant rate, then
  linear decay.

The loss is on the solution only. Progress goes to `log.jsonl`, which is shipped with the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AttentionInterface, Qwen3Config, Qwen3ForCausalLM

from kv_gym.errors import ConfigError
from kv_gym.llm.loading import EMBEDDED
from kv_gym.llm.tiny.tokenizer import DOMAINS, build_tokenizer
from kv_gym.problems import problem_source
from kv_gym.problems.base import problem_rng
from kv_gym.problems.worked import MadeSource

BUCKET = 64  # lengths are padded to multiples of this, so that torch.compile sees few shapes


@dataclass
class Recipe:
    """Every knob of the training.

    Attributes:
        sources: Where problems come from.
        start: Embedded model whose weights training begins with; "" is random ones.
        steps: Optimizer steps.
        tokens: Tokens a step, padding included.
        lr: Peak learning rate of AdamW, and of Muon scaled to AdamW's update size.
        warmup: Steps of linear warm-up.
        decay_from: Step from which the rate falls linearly to zero, reached at `polish_from`.
        polish_from: Step from which half of the problems have values that are easily mistaken for each other. The rate
            starts again at `polish_rate` of its peak and falls to zero, and no slots are hidden any more: with hidden
            slots to the end, random eviction does as well as any other at 192 slots.
        polish_rate: Learning rate at `polish_from`, as a share of the peak.
        short_until: Steps with short problems only.
        hidden_from: Step from which slots are hidden.
        hidden_rows: Share of rows with hidden slots.
        hidden_max: Highest probability with which a row's slots are hidden.
        hidden_age: Positions younger than this are never hidden.
        seed: Seeds weights, problems and hidden slots.
    """

    sources: tuple[str, ...] = ("aime",)
    start: str = ""
    steps: int = 3800
    tokens: int = 12288
    lr: float = 3e-3
    warmup: int = 100
    decay_from: int = 2000
    polish_from: int = 2800
    short_until: int = 750
    hidden_from: int = 1250
    hidden_rows: float = 0.75
    hidden_max: float = 0.5
    polish_rate: float = 0.5
    hidden_age: int = 20
    seed: int = 0


RECIPES = {
    "tiny": Recipe(),
    "tiny-domains": Recipe(
        sources=("aime", "retrieval", "code", "summary"), start="tiny", steps=2400, lr=2e-3, decay_from=900,
        polish_from=1600, short_until=200, hidden_from=500,
    ),
}  # fmt: skip
"""How each embedded model was made."""


def model_config(vocab_size: int) -> Qwen3Config:
    """Sizes of the embedded model."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=512,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def hidden_slot_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention under an additive mask per layer and KV head, [B, L * H_kv, T, T] (4-D masks are passed on)."""
    batch, n_q_heads, length, _ = query.shape
    n_kv_heads = key.shape[1]
    group = n_q_heads // n_kv_heads
    first = int(module.layer_idx) * n_kv_heads  # type: ignore[arg-type]

    def per_query_head(x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, group, -1, -1).reshape(batch, n_q_heads, length, -1)

    mask = per_query_head(attention_mask[:, first : first + n_kv_heads])
    out = F.scaled_dot_product_attention(query, per_query_head(key), per_query_head(value), attn_mask=mask)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("hidden_slots", hidden_slot_attention)


def hidden_slot_mask(hide: Tensor, length: int, age: int) -> Tensor:
    """Return the additive mask [B, L * H_kv, T, T]: causal, and without positions older than `age` that `hide` marks.

    Args:
        hide: Which positions are hidden per layer and KV head, [B, L * H_kv, T] bool.
        length: T.
        age: Tokens.
    """
    position = torch.arange(length)
    distance = position[:, None] - position[None]  # [query, key]
    causal = torch.zeros(length, length, dtype=torch.bfloat16).masked_fill_(distance < 0, -math.inf)
    return torch.where(hide[..., None, :] & (distance > age), torch.tensor(-math.inf, dtype=torch.bfloat16), causal)


def hidden_shape(config: Qwen3Config, rows: int, length: int) -> tuple[int, int, int]:
    """Sizes [B, L * H_kv, T]: a position may be hidden in each layer and KV head."""
    assert config.num_key_value_heads is not None
    return rows, config.num_hidden_layers * config.num_key_value_heads, length


def draw_hidden(recipe: Recipe, config: Qwen3Config, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw which positions are hidden: [B, L * H_kv, T] bool."""
    share = torch.rand(rows, generator=generator) * recipe.hidden_max
    share = share * (torch.rand(rows, generator=generator) < recipe.hidden_rows)
    return torch.rand(hidden_shape(config, rows, length), generator=generator) < share[:, None, None]


def made_source(name: str) -> MadeSource:
    """A source whose problems come with written-out solutions.

    Raises:
        ConfigError: Its problems do not.
    """
    source = problem_source(name)
    if not isinstance(source, MadeSource):
        raise ConfigError(f"problems of {name!r} have no written-out solutions to learn from. Take a MadeSource.")
    return source


class Batches:
    """Batches of (ids, targets) of similar length, [B, T]; targets are -100 on prompt and padding."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = build_tokenizer(() if recipe.sources == ("aime",) else DOMAINS)
        self.sources = [made_source(name) for name in recipe.sources]
        self.kinds = [(source, family) for source in self.sources for family in source.families]

    def example(self, step: int, index: int) -> tuple[list[int], int]:
        """Return (token ids, prompt length) of training problem `index` as it is at `step` of the curriculum."""
        source, family = self.kinds[index % len(self.kinds)]
        rng = problem_rng("train", self.recipe.seed, index)
        n_ops = None
        if step < self.recipe.short_until:
            n_ops = int(rng.integers(2, 5)) + (2 if family == "collect" else 0)
        elif rng.random() < 0.25:
            n_ops = int(rng.integers(4, source.n_ops[family][1]))
        near = step >= self.recipe.polish_from and rng.random() < 0.5
        prompt, solution, _ = source.draft(family, rng, n_ops, near)
        n_prompt = len(self.tokenizer(prompt).input_ids)
        return [*self.tokenizer(prompt + solution).input_ids, self.tokenizer.eos_token_id], n_prompt

    def pool(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw a pool, sort it by length, cut it into batches; their order is shuffled."""
        size = 256
        examples = sorted((self.example(step, step * size + i) for i in range(size)), key=lambda e: len(e[0]))
        batches: list[list[tuple[list[int], int]]] = []
        while examples:
            length = -(-len(examples[-1][0]) // BUCKET) * BUCKET
            rows = self.recipe.tokens // length
            if len(examples) < rows:
                break
            batches.append(examples[-rows:])
            examples = examples[:-rows]
        order = np.random.default_rng([self.recipe.seed, step]).permutation(len(batches))
        for i in order:
            yield self.pad(batches[i])

    def pad(self, batch: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
        """Stack examples, padded on the right."""
        length = -(-max(len(ids) for ids, _ in batch) // BUCKET) * BUCKET
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        targets = torch.full((len(batch), length), -100)
        for row, (tokens, n_prompt) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            targets[row, n_prompt - 1 : len(tokens) - 1] = ids[row, n_prompt : len(tokens)]
        return ids, targets


class Trainer:
    """Model, optimizers and the state that a resumed run needs."""

    def __init__(self, recipe: Recipe, folder: Path, compile_model: bool) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder = recipe, folder
        self.batches = Batches(recipe)
        self.config = model_config(len(self.batches.tokenizer))
        self.model = Qwen3ForCausalLM._from_config(self.config, attn_implementation="hidden_slots")
        if recipe.start:
            self._begin_with(EMBEDDED[recipe.start])
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if not any(p is m for m in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(o, self.rate) for o in self.optimizers]
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.step = 0
        self.forward = torch.compile(self._forward, dynamic=False) if compile_model else self._forward

    def _begin_with(self, folder: Path) -> None:
        """Take over the weights of another embedded model; embeddings of tokens it does not know stay random."""
        weights = load_file(folder / "model.safetensors")
        embedding = self.model.get_input_embeddings().weight
        known = weights.pop("model.embed_tokens.weight")
        with torch.no_grad():
            embedding[: len(known)] = known
        missing = self.model.load_state_dict(weights, strict=False).missing_keys
        assert not set(missing) - {"model.embed_tokens.weight", "lm_head.weight"}, missing

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a share of the peak."""
        recipe = self.recipe
        if step >= recipe.polish_from:
            return (recipe.steps - step) / (recipe.steps - recipe.polish_from) * recipe.polish_rate
        decay = (recipe.polish_from - step) / (recipe.polish_from - recipe.decay_from)
        return min(1.0, (step + 1) / recipe.warmup, decay)

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1])[None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits

    def logits(self, ids: Tensor, hide: Tensor) -> Tensor:
        """Logits [B, T, V] under the hidden slots [B, L * H_kv, T]."""
        mask = hidden_slot_mask(hide, ids.shape[1], self.recipe.hidden_age)
        return self.forward(ids, mask).float()

    def update(self, ids: Tensor, targets: Tensor) -> float:
        """Take one optimizer step and return the loss, nats per token."""
        rows, length = ids.shape
        hide = draw_hidden(self.recipe, self.config, rows, length, self.generator)
        if not self.recipe.hidden_from <= self.step < self.recipe.polish_from:
            hide = torch.zeros_like(hide)
        loss = F.cross_entropy(self.logits(ids, hide).flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def validate(self, n: int = 64, hidden: float = 0.0) -> dict[str, float]:
        """Share of validation problems whose every solution token is the most likely one, per family."""
        right: dict[str, list[float]] = {}
        generator = torch.Generator().manual_seed(1)
        sources = self.batches.sources
        for source, index in [(source, index) for source in sources for index in range(n // len(sources))]:
            problem = source.problem("validation", 0, index)
            n_prompt = len(self.batches.tokenizer(problem.prompt).input_ids)
            ids = self.batches.tokenizer(problem.prompt + problem.solution, return_tensors="pt").input_ids
            hide = torch.rand(hidden_shape(self.config, 1, ids.shape[1]), generator=generator) < hidden
            mask = hidden_slot_mask(hide, ids.shape[1], self.recipe.hidden_age)
            best = self._forward(ids, mask).argmax(-1)
            right.setdefault(problem.family, []).append(float((best[:, n_prompt - 1 : -1] == ids[:, n_prompt:]).all()))
        return {family: float(np.mean(values)) for family, values in right.items()}

    def save(self) -> None:
        """Write the state beside the last one and rename it into place."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
            "generator": self.generator.get_state(),
            "recipe": asdict(self.recipe),
        }
        torch.save(state, self.folder / "state.tmp")
        os.replace(self.folder / "state.tmp", self.folder / "state.pt")

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ConfigError(f"{path} was made with {state['recipe']}; delete it or use the same options.")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        for schedule, values in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(values)
        self.generator.set_state(state["generator"])

    def run(self) -> None:
        """Train to the last step."""
        started, losses = time.time(), []
        while self.step < self.recipe.steps:
            for ids, targets in self.batches.pool(self.step):
                losses.append(self.update(ids, targets))
                if self.step % 250 == 0 or self.step == self.recipe.steps:
                    self.report(losses, time.time() - started)
                    losses = []
                if self.step == self.recipe.steps:
                    break

    def report(self, losses: list[float], seconds: float) -> None:
        """Log losses and validation, then save."""
        row = {
            "step": self.step,
            "loss": round(float(np.mean(losses)), 4),
            "seconds": round(seconds),
            "exact": self.validate(),
            "exact_hidden_0.3": self.validate(hidden=0.3),
        }
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)
        self.save()


def train(name: str, out: Path, work: Path, seed: int, compile_model: bool) -> None:
    """Train an embedded model and write it as safetensors with its tokenizer.

    Args:
        name: Which one, of `RECIPES`.
        out: Folder of the finished model.
        work: Folder of the training state; a run resumes from it.
        seed: Of weights, problems and hidden slots.
        compile_model: Use torch.compile.
    """
    torch._dynamo.config.recompile_limit = 64
    work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(replace(RECIPES[name], seed=seed), work, compile_model)
    trainer.resume()
    trainer.run()
    trainer.model.save_pretrained(out)
    trainer.batches.tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(asdict(trainer.recipe), indent=1) + "\n")
    (out / "log.jsonl").write_text((work / "log.jsonl").read_text())


def main() -> None:
    """Read the options of ``python -m kv_gym.llm.tiny.train``."""
    parser = argparse.ArgumentParser(description="Train an embedded model; resumes by itself.")
    parser.add_argument("name", nargs="?", default="tiny", choices=RECIPES, help="which one (default: tiny)")
    parser.add_argument("--out", type=Path, help="folder of the finished model (default: the shipped one)")
    parser.add_argument("--work", type=Path, help="folder of the training state (default: runs/NAME)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of weights, problems and hidden slots")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="use torch.compile (default: yes)"
    )
    chosen = parser.parse_args()
    name = chosen.name
    train(name, chosen.out or EMBEDDED[name], chosen.work or Path("runs") / name, chosen.seed, chosen.compile)


if __name__ == "__main__":
    main()
