"""Prove on a model of your choice that evicting slots does what it says: ``kv-gym models check ID``.

Truths, where it can be against transformers' own eager attention on the same weights: no eviction is the plain model;
evicting is masking those slots, and what is kept are their keys; reading a chunk is reading its tokens one by one; and
what a row is does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.attention import ATTENTION_NAME
from kv_gym.llm.cache import FullCache, SlotCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.support import foreign_code
from kv_gym.llm.tokens import TokenReader, way_to_read

ALLOWED = {torch.float32: 5e-4, torch.float16: 1.5e-2, torch.bfloat16: 5e-2}
"""Largest difference that is rounding, of the largest logit or key. Measured on random models of all families: below
1e-6, 7e-3 and 1e-2; in float32 up to 3e-4 on wide and deep ones with weights of 0.4, which add rounding up. Wrong
positions, the usual bug, move keys by more than 0.5 in any dtype, and models of other attention are off by 0.4."""
SHORT, LENGTH = 14, 56
"""Tokens of the texts that are read: when a model is first loaded, and by `kv-gym models check`."""


@dataclass(frozen=True)
class Truth:
    """One truth and how well it held.

    Attributes:
        claim: What should be equal.
        gap: Largest difference of a logit or key, over the largest one.
        allowed: What may be rounding.
    """

    claim: str
    gap: float
    allowed: float

    @property
    def held(self) -> bool:
        """Whether the difference is rounding."""
        return self.gap <= self.allowed


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
    reader = TokenReader(llm, cache, way_to_read(device))
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
        window, positions = tokens[:, start : start + every], positions_of(n, start, start + every, device)
        logits.append(llm.read(window, positions, cache) if chunked else _one_by_one(reader, cache, window, positions))
        cache.settle()
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return torch.cat(logits, 1), cache, torch.cat(seen, -2) & causal


def _one_by_one(reader: TokenReader, cache: SlotCache, tokens: Tensor, positions: Tensor) -> Tensor:
    """Read a window [N, T] token by token, as the LLM writes; return logits [N, T, V]."""
    cache.open(positions)
    found = []
    for offset in range(tokens.shape[1]):
        reader.tokens.copy_(tokens[:, offset])
        reader.positions.copy_(positions[:, offset])
        found.append(reader.read().clone())
    return torch.stack(found, 1)


@torch.no_grad()
def masked_run(
    model: Any, tokens: Tensor, visible: Tensor | None, attention: bool = False, cache: Cache | None = None,
    cache_name: str = "past_key_values",
) -> Any:  # fmt: skip
    """A plain forward of a transformers model on eager attention.

    Args:
        model: Not a FrozenLLM; eager attention must be set.
        tokens: [N, T].
        visible: Which slots each query sees in each layer and KV head, [L, N, H_kv, T, T] bool; None is causal.
        attention: Return the attention too.
        cache: Filled with keys and values, if given.
        cache_name: How the model's forward calls it.

    Returns:
        transformers' output.
    """
    config, handles = model.config.get_text_config(), []
    positions = positions_of(len(tokens), 0, tokens.shape[1], tokens.device)
    if visible is not None:
        group = config.num_attention_heads // visible.shape[2]
        modules = _attention_modules(model)
        if len(modules) != len(visible):
            raise UnsupportedModelError(
                f"{type(model).__name__}: the attention modules of {len(visible) - len(modules)} of its {len(visible)} "
                "layers cannot be found (no layer_idx and is_causal), so evicting cannot be compared with masking. Use "
                "another model; docs/models.md lists the families that work."
            )
        for layer, mask in zip(modules, visible, strict=True):
            low = torch.finfo(model.dtype).min
            additive = torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, low).repeat_interleave(group, 1)

            def substitute(module: Any, args: Any, kwargs: Any, additive: Tensor = additive) -> Any:
                return args, kwargs | {"attention_mask": additive}

            handles.append(layer.register_forward_pre_hook(substitute, with_kwargs=True))
    stored = {} if cache is None else {cache_name: cache}
    try:
        return model(tokens, position_ids=positions, output_attentions=attention, use_cache=cache is not None, **stored)
    finally:
        for handle in handles:
            handle.remove()


def _attention_modules(model: Any) -> list[torch.nn.Module]:
    """The attention of each layer, in order, by what transformers gives all of them."""
    found = {int(m.layer_idx): m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")}
    return [found[layer] for layer in sorted(found)]


def check_truths(llm: FrozenLLM, length: int = LENGTH, long: int = 0) -> list[Truth]:
    """Check the truths on random tokens.

    Args:
        llm: The frozen LLM.
        length: Tokens of the texts; fewer, if the model is right for fewer.
        long: Read a text of so many tokens too, or of as many as the model is right for.

    Raises:
        UnsupportedModelError: The model cannot even be compared with itself.
    """
    longest = length if llm.limit is None else min(length, llm.limit.tokens)
    if longest < SHORT:
        raise UnsupportedModelError(f"{llm.name} is right for texts of {longest} tokens only, which is too short.")
    with foreign_code(type(llm.model).__name__, "it was compared with transformers' own attention"):
        try:
            _check_numbers(llm)
            found = _short_texts(llm, longest // 7)
            return [*found, _long_text(llm, long)] if long else found
        finally:
            llm.model.set_attn_implementation(ATTENTION_NAME)


def _texts(llm: FrozenLLM, n: int, length: int) -> Tensor:
    """Random texts, [N, T]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, llm.n_vocabulary, (n, length), generator=generator).to(llm.shape.device)


def _check_numbers(llm: FrozenLLM) -> None:
    """Refuse a model that says nothing: of what is NaN or zero, nothing can be compared.

    Raises:
        UnsupportedModelError: Says which.
    """
    logits = _plain_run(llm, _texts(llm, 1, SHORT))
    llm.model.set_attn_implementation(ATTENTION_NAME)
    if not logits.isfinite().all():
        raise UnsupportedModelError(
            f"{llm.name} gives logits that are NaN or infinite: its weights are too large for {llm.shape.dtype}, or "
            "damaged. Use a dtype with a larger range (bfloat16, float32), or other weights."
        )
    if not logits.any():
        raise UnsupportedModelError(
            f"{llm.name} gives logits that are all zero: its weights are empty, or too large for {llm.shape.dtype}. "
            "Copy or download them again, or use a dtype with a larger range."
        )


def _short_texts(llm: FrozenLLM, every: int) -> list[Truth]:
    """Read two texts of seven windows, with three evictions."""
    budget, length = 3 * every, 7 * every
    tokens = _texts(llm, 2, length)
    positions = positions_of(2, 0, length, tokens.device).clone()
    kept = llm.read(tokens, positions, SlotCache(llm.shape, 2, length - every, every))
    positions[1] += _far(llm)
    beside = llm.read(tokens, positions, SlotCache(llm.shape, 2, length - every, every))
    evicted, cache, visible = evicting_run(llm, tokens, budget, every, chunked=False)
    chunked, _, _ = evicting_run(llm, tokens, budget, every, chunked=True)
    plain = _plain_run(llm, tokens)
    theirs: Any = DynamicCache()
    masked = masked_run(llm.model, tokens, visible, cache=theirs, cache_name=llm.cache_name).logits
    keys = torch.stack([layer.keys for layer in theirs.layers])
    left = visible[..., -1, :].int().sort(dim=-1, descending=True, stable=True).indices[..., : cache.length, None]
    mine = cache.keys[..., : cache.length, :]
    return [
        _truth(llm, "no eviction is the plain model", kept, plain),
        _truth(llm, "evicting is masking those slots", evicted, masked[:, budget + every - 1 :]),
        _truth(llm, "slots that stay keep their keys", mine, keys.gather(-2, left.expand_as(mine))),
        _truth(llm, "a chunk is its tokens one by one", chunked, evicted),
        _truth(llm, "a row does not see the length of others", beside[:1], kept[:1]),
    ]


@torch.no_grad()
def _plain_run(llm: FrozenLLM, tokens: Tensor) -> Tensor:
    """Logits of transformers' own attention, which finds positions and mask by itself; it stays switched on."""
    llm.model.set_attn_implementation("eager")
    return llm.model(tokens, use_cache=False).logits


def _far(llm: FrozenLLM) -> int:
    """How far behind a row lies that must not change another: past every length that models know of."""
    return max(int(getattr(llm.model.config.get_text_config(), "max_position_embeddings", None) or 0), 2**14)


def _long_text(llm: FrozenLLM, long: int) -> Truth:
    """The first truth on a longer text, up to the last token that the model is right for."""
    length = long if llm.limit is None else min(long, llm.limit.tokens)
    tokens = _texts(llm, 1, length)
    llm.model.set_attn_implementation(ATTENTION_NAME)
    found = llm.read(tokens, positions_of(1, 0, length, tokens.device), FullCache(llm.shape, 1, length))
    return _truth(llm, f"so it is in a text of {length} tokens", found, _plain_run(llm, tokens))


def _truth(llm: FrozenLLM, claim: str, found: Tensor, wanted: Tensor) -> Truth:
    """Compare logits or keys [..., width]: by the worst token, in float32.

    In shorter types it is the token at the third quartile, because there rounding sends some to other experts.
    """
    largest = wanted.float().abs().max().clamp_min(torch.finfo(torch.float32).tiny)  # keys may be all zero
    each = (found.float() - wanted.float()).abs_().amax(-1).flatten() / largest
    dtype = llm.shape.dtype
    gap = each.max() if dtype == torch.float32 else each.quantile(0.75)
    return Truth(claim, float(gap), ALLOWED[dtype])


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
