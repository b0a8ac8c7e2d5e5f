"""Prove on a model of your choice that evicting slots does what it says: ``kv-gym models check ID``.

Three truths, each against transformers' own eager attention on the same weights: no eviction is the plain model;
evicting is masking those slots; reading a chunk is reading its tokens one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kv_gym.errors import ConfigError, UnsupportedModelError
from kv_gym.llm.attention import ATTENTION_NAME
from kv_gym.llm.cache import SlotCache
from kv_gym.llm.frozen import FrozenLLM

ALLOWED = 2e-5  # of the largest logit; wrong positions, the usual bug, are 100 times as far off


@dataclass(frozen=True)
class Truth:
    """One truth and how well it held.

    Attributes:
        claim: What should be equal.
        gap: Largest difference of a logit, over the largest logit.
    """

    claim: str
    gap: float

    @property
    def held(self) -> bool:
        """Whether the difference is rounding."""
        return self.gap <= ALLOWED


def positions_of(n: int, start: int, stop: int, device: torch.device) -> Tensor:
    """Positions `start` to `stop` - 1 for each of n rows, [N, T]."""
    return torch.arange(start, stop, device=device).expand(n, -1)


def evicting_run(
    llm: FrozenLLM, tokens: Tensor, budget: int, every: int, chunked: bool, track: Collection[str] = ()
) -> tuple[Tensor, SlotCache, Tensor]:
    """Read texts with random evictions.

    Args:
        llm: The frozen LLM.
        tokens: [N, T], T = budget + a multiple of `every`.
        budget: Slots that stay.
        every: Slots that go at once.
        chunked: Read each window in one forward, or token by token.
        track: Accumulators that are kept.

    Returns:
        (logits from the last prefill token on, the cache, which slots each query could see [L, N, H_kv, T, T]).
    """
    generator = torch.Generator().manual_seed(2)
    (n, length), slots, device = tokens.shape, budget + every, tokens.device
    cache = SlotCache(llm.shape, n, budget, every, track=track)
    live = torch.ones(llm.shape.n_layers, n, llm.shape.n_kv_heads, 1, length, dtype=torch.bool, device=device)
    seen = [live.expand(-1, -1, -1, slots, -1)]
    logits = [llm.read(tokens[:, :slots], positions_of(n, 0, slots, device), cache)[:, -1:]]
    cache.settle()
    for start in range(slots, length, every):
        order = torch.rand(cache.positions.shape, generator=generator).argsort(-1).to(device)
        gone = cache.positions.gather(-1, order[..., budget:])
        live = live.scatter(-1, gone[..., None, :], False)
        seen.append(live.expand(-1, -1, -1, every, -1))
        cache.evict(order[..., :budget].sort(-1).values)
        steps = [(start, start + every)] if chunked else [(t, t + 1) for t in range(start, start + every)]
        logits.extend(llm.read(tokens[:, a:b], positions_of(n, a, b, device), cache) for a, b in steps)
        cache.settle()
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return torch.cat(logits, 1), cache, torch.cat(seen, -2) & causal


@torch.no_grad()
def masked_run(model: Any, tokens: Tensor, visible: Tensor | None, attention: bool = False) -> Any:
    """A plain forward of a transformers model on eager attention.

    Args:
        model: Not a FrozenLLM; eager attention must be set.
        tokens: [N, T].
        visible: Which slots each query sees in each layer and KV head, [L, N, H_kv, T, T] bool; None is causal.
        attention: Return the attention too.

    Returns:
        transformers' output.
    """
    config, handles = model.config.get_text_config(), []
    positions = positions_of(len(tokens), 0, tokens.shape[1], tokens.device)
    if visible is not None:
        group = config.num_attention_heads // visible.shape[2]
        for layer, mask in zip(_attention_modules(model), visible, strict=True):
            low = torch.finfo(model.dtype).min
            additive = torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, low).repeat_interleave(group, 1)

            def substitute(module: Any, args: Any, kwargs: Any, additive: Tensor = additive) -> Any:
                return args, kwargs | {"attention_mask": additive}

            handles.append(layer.register_forward_pre_hook(substitute, with_kwargs=True))
    try:
        return model(tokens, position_ids=positions, output_attentions=attention, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _attention_modules(model: Any) -> list[torch.nn.Module]:
    """The attention of each layer, in order, by what transformers gives all of them."""
    found = {int(m.layer_idx): m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")}
    return [found[layer] for layer in sorted(found)]


def check_truths(llm: FrozenLLM, budget: int = 24, every: int = 8, windows: int = 3) -> list[Truth]:
    """Check the three truths on random tokens; the model must be in float32.

    Args:
        llm: The frozen LLM.
        budget: Slots that stay.
        every: Slots that go at once.
        windows: Evictions.

    Raises:
        ConfigError: The model is in another dtype.
    """
    if llm.shape.dtype != torch.float32:
        raise ConfigError(f"{llm.name} is in {llm.shape.dtype}; rounding would hide mistakes. Load it in float32.")
    draw = torch.Generator().manual_seed(1)
    length = budget + (windows + 1) * every
    tokens = torch.randint(3, llm.n_vocabulary, (2, length), generator=draw).to(llm.shape.device)
    whole = SlotCache(llm.shape, 2, length - every, every)
    kept = llm.read(tokens, positions_of(2, 0, length, tokens.device), whole)
    one_by_one, _, visible = evicting_run(llm, tokens, budget, every, chunked=False)
    chunked, _, _ = evicting_run(llm, tokens, budget, every, chunked=True)
    try:
        llm.model.set_attn_implementation("eager")
        plain = masked_run(llm.model, tokens, None).logits.float()
        masked = masked_run(llm.model, tokens, visible).logits.float()[:, budget + every - 1 :]
    finally:
        llm.model.set_attn_implementation(ATTENTION_NAME)
    return [
        Truth("no eviction is the plain model", _gap(kept, plain)),
        Truth("evicting is masking those slots", _gap(one_by_one, masked)),
        Truth("a chunk is its tokens one by one", _gap(chunked, one_by_one)),
    ]


def _gap(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def missing_parts(llm: FrozenLLM) -> list[str]:
    """What some agents need and this model does not have, in words."""
    needs: list[tuple[str, Callable[[], object]]] = [
        ("keys and queries before RoPE", llm.check_rotary),
        ("the output projection of each head", lambda: llm.output_weights),
    ]
    found = []
    for what, try_it in needs:
        try:
            try_it()
        except UnsupportedModelError as error:
            found.append(f"{what}: {error}")
    return found
