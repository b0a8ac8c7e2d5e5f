"""Which models can be evicted slot by slot: those whose layers keep one plain key and value per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kv_gym.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def check_supported(config: PretrainedConfig) -> None:
    """Refuse models whose layers do not keep one plain key and value per token.

    Raises:
        UnsupportedModelError: Sliding-window, chunked, linear or state-space layers, or latent attention (MLA).
    """
    other = sorted({kind for kind in getattr(config, "layer_types", None) or [] if kind != "full_attention"})
    if not other and getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        other = ["sliding_attention"]
    if not other and getattr(config, "kv_lora_rank", None):
        other = ["latent attention (MLA)"]
    if not other and (hasattr(config, "state_size") or hasattr(config, "ssm_cfg")):
        other = ["state_space"]
    if other:
        raise UnsupportedModelError(
            f"{config.model_type} has layers of type {', '.join(other)}; only full_attention layers keep a slot for "
            "every token. Use a model with full attention in every layer"
            + (
                ", or set sliding_window to null in its config if its window exceeds your texts."
                if "sliding" in other[0]
                else "."
            )
        )
