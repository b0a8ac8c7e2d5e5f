"""Load a frozen LLM and read tokens with it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kv_gym.errors import ConfigError, UnknownNameError, UnsupportedModelError
from kv_gym.llm.attention import ATTENTION_NAME, CACHE_KWARG, unrotate, unrotation
from kv_gym.llm.cache import CacheShape, FullCache, SlotCache
from kv_gym.llm.fingerprint import fingerprint

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TINY = Path(__file__).parent / "tiny"
EMBEDDED = {"tiny": _TINY / "weights", "tiny-domains": _TINY / "domains"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FrozenLLM:
    """A causal LM in eval mode, without gradients, on our attention function.

    Attributes:
        name: What it was loaded by.
        fingerprint: Hash of everything that can move a token; part of every stored reference and result.
        shape: Sizes for caches.
        stop_ids: Token ids that end a generation.
        n_vocabulary: Width of the logits.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name = tokenizer, name
        config = model.config.get_text_config()
        check_supported(config)
        self.model.set_attn_implementation(ATTENTION_NAME)
        n_q_heads = config.num_attention_heads
        self.shape = CacheShape(
            n_layers=config.num_hidden_layers,
            n_q_heads=n_q_heads,
            n_kv_heads=getattr(config, "num_key_value_heads", None) or n_q_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // n_q_heads,
            dtype=model.dtype,
            device=model.device,
        )
        # A 4-D mask is passed through as it is; ours is never read, visibility comes from the cache.
        self._no_mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)
        self.n_vocabulary = int(config.vocab_size)
        self._check_attention()
        stop = model.generation_config.eos_token_id if model.generation_config else None
        stop = tokenizer.eos_token_id if stop is None else stop
        self.stop_ids = tuple(stop if isinstance(stop, list) else [] if stop is None else [stop])
        self.fingerprint = fingerprint(model, tokenizer, self.stop_ids)

    @torch.no_grad()
    def read(self, tokens: Tensor, positions: Tensor, cache: SlotCache | FullCache, last_only: bool = False) -> Tensor:
        """Read `tokens` [N, T] at absolute `positions` [N, T] into `cache`.

        Returns:
            Logits float32 [N, T, V], or [N, 1, V] of the last token with `last_only`.
        """
        cache.begin(positions)
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=self._no_mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
            **{CACHE_KWARG: cache},
        )
        return output.logits.float()

    @torch.no_grad()
    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of RoPE at positions [N, T], each [N, T, R] float32."""
        rows = [self._decoder.rotary_emb(self._no_mask.float(), row[None]) for row in positions]
        cos, sin = (torch.cat(values).float() for values in zip(*rows, strict=True))
        return cos, sin

    def check_rotary(self) -> None:
        """Refuse models on whose queries `unrotate` does not undo RoPE.

        The same tokens are read at two places: RoPE is relative, so before it all queries must be equal.

        Raises:
            UnsupportedModelError: Interleaved RoPE, layers without RoPE, or learned positions.
        """
        seen: list[Tensor] = []
        tokens = torch.arange(4, device=self.shape.device)[None] % 3 + 3
        for first in (0, 9):
            positions = first + torch.arange(4, device=self.shape.device)[None]
            cache = SlotCache(self.shape, 1, 4, 4)
            self.read(tokens, positions, cache, last_only=True)
            try:
                cos, sin = unrotation(*self.rotary(positions))
            except AttributeError as error:
                raise UnsupportedModelError(f"{type(self.model).__name__} has no rotary positions.") from error
            seen.append(unrotate(cache.queries[..., -4:, :].float(), cos[:, None], sin[:, None]))
        gap = max(float((one - two).norm() / one.norm()) for one, two in zip(*seen, strict=True))  # of a layer
        if gap > 0.05:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: queries before RoPE differ by {gap:.0%} between two places of one text; "
                "its RoPE is interleaved or left out in some layers. Choose an agent that does not undo RoPE."
            )

    @functools.cached_property
    def output_weights(self) -> Tensor:
        """The output projection of each query head, [L, H_kv, group, D, hidden].

        Raises:
            UnsupportedModelError: The model's layers do not call it `self_attn.o_proj`.
        """
        shape = self.shape
        try:
            weights = [layer.self_attn.o_proj.weight for layer in self._decoder.layers]  # each [hidden, H_q * D]
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no self_attn.o_proj in its layers ({error}). Choose an agent that "
                "does not read the output projection."
            ) from error
        split = (shape.n_layers, -1, shape.n_kv_heads, shape.group, shape.head_dim)
        return torch.stack(weights).reshape(split).permute(0, 2, 3, 4, 1)

    @property
    def _decoder(self) -> Any:
        """The stack of layers, with its RoPE, as every supported family names it."""
        return self.model.get_decoder()

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt: as the user's turn in the tokenizer's own chat template, where it has one."""
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(text).input_ids)
        turn = [{"role": "user", "content": text}]
        return list(self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that goes on after a prompt."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, tokens: Tensor | list[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _check_attention(self) -> None:
        """Read two tokens and see whether every layer's attention came by."""
        seen: set[int] = set()
        cache = FullCache(self.shape, 1, 2)
        cache.observer = lambda layer, query, key, scale: seen.add(layer)
        try:
            self.read(torch.zeros(1, 2, dtype=torch.long, device=self.shape.device), self._first_positions(2), cache)
        except (KeyError, RuntimeError, IndexError, TypeError) as error:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not run on slot attention: {error!r}"
            ) from error
        missing = sorted(set(range(self.shape.n_layers)) - seen)
        if missing:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: layers {missing} bypass transformers' AttentionInterface."
            )

    def _first_positions(self, length: int) -> Tensor:
        return torch.arange(length, device=self.shape.device)[None]


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


def load_llm(name: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu") -> FrozenLLM:
    """Load a model once per process.

    Args:
        name: ``tiny``, a local folder, a local ``.gguf`` file, or a Hugging Face id.
        revision: Hub revision; None for local ones.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: A torch device.

    Raises:
        UnknownNameError: No such model here or on the hub.
        UnsupportedModelError: Its layers cannot be evicted slot by slot.
        ConfigError: Unknown dtype, or a ``.gguf`` file without the packages that read it.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    return _load(name, revision, dtype, device)


@functools.lru_cache(maxsize=4)  # keyed by position: defaults that are written out give the same entry
def _load(name: str, revision: str | None, dtype: str, device: str) -> FrozenLLM:
    path: Any = EMBEDDED.get(name, name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    if name.endswith(".gguf"):
        path, options["gguf_file"] = _gguf(Path(name))
    try:
        check_supported(AutoConfig.from_pretrained(path, **options).get_text_config())
        transformers_logging.disable_progress_bar()
        with _silent() if "gguf_file" in options else contextlib.nullcontext():
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=DTYPES[dtype], attn_implementation=ATTENTION_NAME, **options
            )
    except (OSError, ValueError, struct.error, IndexError) as error:  # the last two for damaged GGUF files
        raise UnknownNameError(
            f"model {name!r} (revision {revision}) cannot be loaded: it is neither embedded ({', '.join(EMBEDDED)}), "
            "nor a folder with config.json, nor a readable .gguf file, nor reachable on the Hugging Face hub. Check "
            f"the name or pass a folder. ({error})"
        ) from error
    if tokenizer.chat_template == "":  # a GGUF file without one gives an empty text
        tokenizer.chat_template = None
    model.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps torch's method without its types
    return FrozenLLM(model, tokenizer, name)


def forget_llm() -> None:
    """Load models anew from now on: one that was loaded has been changed."""
    _load.cache_clear()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Swallow the progress bar that transformers draws for GGUF files; it has no switch."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _gguf(path: Path) -> tuple[Path, str]:
    """Folder and name of a GGUF file, as transformers wants them.

    Raises:
        UnknownNameError: There is no such file.
        ConfigError: The packages that read it are missing.
    """
    if not path.is_file():
        raise UnknownNameError(f"model {str(path)!r}: there is no such file. Check the path.")
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{path.name} needs {' and '.join(missing)} to be read. Install them: pip install kv-gym[gguf]."
        )
    return path.parent, path.name
