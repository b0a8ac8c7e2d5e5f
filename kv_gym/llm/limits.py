"""How long a text may be: up to where a model is plain full attention, whatever else is in the batch.

Four things end there: a window that layers attend to, a table of learned positions, queries that are scaled by how much
is in the cache, and RoPE that turns keys otherwise once a text is longer than the model was first trained on
(`longrope`, `dynamic`). Such RoPE is no matter of the text:
transformers chooses it by the longest row of the batch, and keys that were turned before keep their turn. So a model is
handed no position past its limit. A longer row of a batch is no episode: its prompt is too long for its env.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kv_gym.llm.support import FULL, WINDOWS, window_of


@dataclass(frozen=True)
class TextLimit:
    """The longest text that a model is right for.

    Attributes:
        tokens: Of prompt and generation together.
        why: What ends there, after "... because".
    """

    tokens: int
    why: str


def text_limit(model: Any) -> TextLimit | None:
    """The shortest limit of a model on our attention; None where there is none."""
    config = model.config.get_text_config()
    limits = [
        *_windows(config), *_left_over_window(model, config), *_switching_rope(model, config),
        *_position_table(config), *_scaled_queries(config),
    ]  # fmt: skip
    return min(limits, key=lambda limit: limit.tokens, default=None)


def _windows(config: Any) -> Iterator[TextLimit]:
    """Layers that say they attend to a window."""
    for kind in WINDOWS:
        if kind in (getattr(config, "layer_types", None) or []):
            yield _window_limit(kind, window_of(config, kind) or 0)


def _window_limit(kind: str, tokens: int) -> TextLimit:
    return TextLimit(tokens, f"its {kind} layers are full attention only over {WINDOWS[kind]}={tokens} tokens")


def _left_over_window(model: Any, config: Any) -> Iterator[TextLimit]:
    """A window that no layer names: many configs have one that nothing uses."""
    kinds = set(getattr(config, "layer_types", None) or [])
    window = window_of(config, "sliding_attention")
    if window is None or "sliding_attention" in kinds or getattr(config, "use_sliding_window", True) is False:
        return
    if kinds != {FULL} or window_matters(model, config):
        yield _window_limit("sliding_attention", window)


@torch.no_grad()
def window_matters(model: Any, config: Any) -> bool:
    """Whether the number `sliding_window` of a config changes what transformers' own attention computes."""
    tokens = torch.arange(12, device=model.device)[None] % 8
    before, implementation = config.sliding_window, config._attn_implementation
    logits = []
    try:
        model.set_attn_implementation("eager")
        for window in (4, 64):
            config.sliding_window = window
            logits.append(model(tokens, use_cache=False).logits)
    finally:
        config.sliding_window = before
        model.set_attn_implementation(implementation)
    return not torch.equal(*logits)


def _switching_rope(model: Any, config: Any) -> Iterator[TextLimit]:
    """RoPE whose factors depend on the longest text of the batch.

    HunYuan's configs call one `dynamic` that is not, where they name an `alpha`: the class then says otherwise.
    """
    turned = getattr(getattr(model.get_decoder(), "rotary_emb", None), "rope_type", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in by_layer or [parameters]:
        kind = str(rope.get("rope_type", "default"))
        if kind == "longrope" and not _same_factors(rope):
            tokens = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            yield TextLimit(int(tokens), f"its {kind} RoPE has other factors for longer texts")
        elif "dynamic" in kind and not (isinstance(turned, str) and "dynamic" not in turned):
            yield TextLimit(int(config.max_position_embeddings), f"its {kind} RoPE has another base for longer texts")


def _same_factors(rope: dict[str, Any]) -> bool:
    """Whether short and long texts are turned alike."""
    pairs = (("short_factor", "long_factor"), ("short_mscale", "long_mscale"))
    return all(rope.get(short) == rope.get(long) for short, long in pairs)


def _position_table(config: Any) -> Iterator[TextLimit]:
    """Positions that are looked up: models without RoPE parameters have a row for each of so many."""
    longest = getattr(config, "max_position_embeddings", None)
    if not getattr(config, "rope_parameters", None) and isinstance(longest, int) and longest > 0:
        yield TextLimit(longest, f"it has max_position_embeddings={longest} positions")


def _scaled_queries(config: Any) -> Iterator[TextLimit]:
    """Layers without RoPE that scale queries by floor((place + 1) / floor_scale): Llama 4.

    They count places from what is in the cache, the tokens under way included, up to twice a text less one. Only where
    all of that is below `floor_scale` is every scale 1, as it is for the places where the tokens stand.
    """
    start = getattr(config, "floor_scale", None)
    if getattr(config, "attn_temperature_tuning", False) and start and not all(config.no_rope_layers):
        why = f"its layers without RoPE scale queries from floor_scale={start} on, by the length of the cache"
        yield TextLimit(math.ceil(start / 2) - 1, why)
