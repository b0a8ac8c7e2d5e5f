"""Read a model's weights, and refuse those that are not all there: transformers fills gaps with random numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import CONFIG_NAME

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.source import Source, foreign, listed, quiet

HARMLESS = re.compile(r"(rotary_emb\.(cos|sin)_cached|\.att(entio)?n\.(bias|masked_bias)|position_ids)$")
"""Tensors of older files that a model makes by itself: tables of RoPE, causal masks, counts."""

NUMBERS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Number formats of weights, as safetensors calls them."""


def read_weights(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """Read a model in one number format.

    Raises:
        UnsupportedModelError: A file is damaged, tensors are missing, left over, of another shape, not finite, or of a
            format that the config does not speak of.
    """
    with foreign(source.name, "its weights"), quiet():
        check_numbers(source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=dtype,
            attn_implementation="eager",  # which every model knows; FrozenLLM sets ours
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # `check_complete` refuses them by name
            output_loading_info=True,
            **source.options,
        )
    model, report = loaded
    check_complete(source.name, report)
    check_finite(source.name, model)
    return model


def check_numbers(source: Source) -> None:
    """Refuse tensors that transformers would cast without their scales: int8, bool, float8, complex numbers.

    Raises:
        UnsupportedModelError: There are such, and the config names no quantization; or float8 and no scales beside it.
    """
    config = source.file(CONFIG_NAME)
    if source.gguf or config is None:
        return
    kinds: dict[str, str] = {}
    for path in source.weight_files():
        with safe_open(path, "pt") as file:
            kinds |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    odd = [f"{name} in {kind}" for name, kind in kinds.items() if kind not in NUMBERS and not HARMLESS.search(name)]
    if _is_quantized(json.loads(config.read_bytes())):
        scaled = {name.partition("_scale")[0] for name in kinds if "_scale" in name}
        bare = [name for name, kind in kinds.items() if kind.startswith("F8") and name not in scaled]
        if bare:
            raise UnsupportedModelError(
                f"model {source.name!r} is quantized, and {listed(bare)} in float8 has no scales beside it. Copy the "
                f"whole model again, or take it in {', '.join(NUMBERS)}."
            )
    elif odd:
        raise UnsupportedModelError(
            f"model {source.name!r}: its weights have {listed(odd)}, and its {CONFIG_NAME} names no quantization that "
            f"would say what they mean. Take the model in {', '.join(NUMBERS)}."
        )


def _is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether a config says how its weights were quantized; of a model with images, also in the part about text."""
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return any(part.get(name) for part in parts for name in ("quantization_config", "compression_config"))


def check_complete(name: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that do not fit the config.

    Args:
        name: The model.
        report: What transformers says about loading; tied weights and what a model makes by itself are not in it.

    Raises:
        UnsupportedModelError: Names the first tensors.
    """
    shapes = [
        f"{tensor} of shape {tuple(found)}, not {tuple(wanted)}"
        for tensor, found, wanted in sorted(report.get("mismatched_keys") or ())
    ]
    faults = {
        "have": shapes,
        "lack": sorted(report.get("missing_keys") or ()),
        "also have": sorted(key for key in report.get("unexpected_keys") or () if not HARMLESS.search(key)),
        "could not be converted:": [str(message) for message in report.get("error_msgs") or ()],
    }
    for what, tensors in faults.items():
        if tensors:
            raise UnsupportedModelError(
                f"model {name!r}: its weights {what} {listed(tensors)}. They must be exactly the tensors that its "
                "config.json describes: gaps would be filled with random numbers. Copy or download the model again, or "
                "take the config that belongs to these weights."
            )


@torch.no_grad()
def check_finite(name: str, model: PreTrainedModel) -> None:
    """Refuse weights with NaN or infinity, and those that were left in a quantized format.

    Raises:
        UnsupportedModelError: Names the first tensor.
    """
    for tensor, values in model.state_dict().items():
        if values.is_floating_point() and values.dtype not in NUMBERS.values():
            raise UnsupportedModelError(
                f"model {name!r} is quantized: {tensor} is in {str(values.dtype).removeprefix('torch.')}, which is not "
                f"supported on this device, or has no scales. Take the model in {', '.join(NUMBERS)}."
            )
        if values.is_floating_point() and values.numel() and not _is_finite(values):
            number = str(values.dtype).removeprefix("torch.")
            narrow = "Numbers above 65504 do not fit into it: try dtype='bfloat16'. " if number == "float16" else ""
            raise UnsupportedModelError(
                f"model {name!r}: {tensor} has NaN or infinite numbers in {number}; all weights must be finite. "
                f"{narrow}A damaged file must be copied or downloaded again."
            )


def _is_finite(values: torch.Tensor) -> bool:
    """Without a second tensor of that size: NaN and infinity reach the extremes."""
    low, high = torch.aminmax(values)
    return bool(torch.isfinite(low) & torch.isfinite(high))
