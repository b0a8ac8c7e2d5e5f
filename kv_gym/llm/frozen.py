"""A frozen LLM: what it reads, what it writes, where its parts are."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from kv_gym.errors import UnsupportedModelError
from kv_gym.llm.attention import ATTENTION_NAME, CACHE_KWARG, reading, unrotate, unrotation
from kv_gym.llm.cache import CacheShape, FullCache, SlotCache
from kv_gym.llm.fingerprint import Stamp, fingerprint
from kv_gym.llm.limits import text_limit
from kv_gym.llm.prompts import Chat, encode_prompt
from kv_gym.llm.support import check_supported, foreign_code


class FrozenLLM:
    """A causal LM in eval mode, without gradients, on our attention function.

    Attributes:
        name: What it was loaded by.
        fingerprint: Hash of everything that can move a token; part of every stored reference and result.
        shape: Sizes for caches.
        stop_ids: Token ids that end a generation.
        n_vocabulary: Width of the logits.
        limit: The longest text that it is right for; None where there is no end.
        cache_name: What its forward calls a cache.

    Raises:
        UnsupportedModelError: Its layers cannot be evicted slot by slot, or its code does not run.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, files: Sequence[Stamp] = ()
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name = tokenizer, name
        with foreign_code(type(model).__name__, "it read two tokens"):
            config = model.config.get_text_config()
            check_supported(config)
            self.cache_name, self._open = _argument_names(model)
            self._hands_down = self._open
            self.model.set_attn_implementation("eager")
            self.shape = self._find_shape(config)
            self.n_vocabulary = int(config.vocab_size)
            self.limit = text_limit(model)
            self.model.set_attn_implementation(ATTENTION_NAME)
            if config._attn_implementation != ATTENTION_NAME:
                raise UnsupportedModelError(
                    f"{type(model).__name__} computes attention in its own way, not through transformers' "
                    "AttentionInterface. Use another model; docs/models.md lists the families that work."
                )
            # A 4-D mask is passed through as it is; ours is never read, visibility comes from the cache.
            self._no_mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)
            self._check_attention()
        stop = model.generation_config.eos_token_id if model.generation_config else None
        stop = tokenizer.eos_token_id if stop is None else stop
        self.stop_ids = tuple(stop if isinstance(stop, list) else [] if stop is None else [stop])
        self.fingerprint = fingerprint(model, tokenizer, self.stop_ids, files)

    @torch.no_grad()
    def read(self, tokens: Tensor, positions: Tensor, cache: SlotCache | FullCache, last_only: bool = False) -> Tensor:
        """Read `tokens` [N, T] at absolute `positions` [N, T] into `cache`.

        Returns:
            Logits float32 [N, T, V], or [N, 1, V] of the last token with `last_only`.
        """
        cache.begin(positions)
        return self.forward(tokens, positions, cache, last_only)

    @torch.no_grad()
    def forward(self, tokens: Tensor, positions: Tensor, cache: SlotCache | FullCache, last_only: bool) -> Tensor:
        """The same where the cache has been told."""
        arguments: dict[str, Any] = {self.cache_name: cache, "position_ids": self._within(positions)}
        if self._open:
            arguments |= {"logits_to_keep": 1 if last_only else 0, CACHE_KWARG: cache}
        # What is told beside the arguments does not compile, so only models that drop the argument are told like that.
        with contextlib.nullcontext() if self._hands_down else reading(cache):
            output = self.model(input_ids=tokens, attention_mask=self._no_mask, use_cache=True, **arguments)
        return (output.logits[:, -1:] if last_only else output.logits).float()

    @torch.no_grad()
    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of RoPE at positions [N, T], each [N, T, R] float32."""
        rows = [self._decoder.rotary_emb(self._no_mask.float(), row[None]) for row in self._within(positions)]
        cos, sin = (torch.cat(values).float() for values in zip(*rows, strict=True))
        return cos, sin

    def _within(self, positions: Tensor) -> Tensor:
        """Positions that the model is right for: beyond, it would turn the keys of all rows otherwise, or fail."""
        return positions if self.limit is None else positions.clamp_max(self.limit.tokens - 1)

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
            except Exception as error:  # of code that we do not know: none there, or one that asks for more
                raise UnsupportedModelError(f"{type(self.model).__name__} has no rotary positions to undo.") from error
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

    def encode_prompt(self, text: str, chat: Chat | None = None) -> list[int]:
        """Token ids of a prompt: as the user's turn in the tokenizer's own chat template, where it has one.

        Args:
            text: The question; names of control tokens in it are text.
            chat: How it is put; default is the template as it is.

        Raises:
            ConfigError: `chat` asks for what the template does not have, or the template fails.
            UnsupportedModelError: The tokenizer writes a token that the model does not know.
        """
        ids = encode_prompt(self.tokenizer, text, chat or Chat())
        if ids and max(ids) >= self.n_vocabulary:
            name = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise UnsupportedModelError(
                f"{self.name}: its prompts have token {max(ids)} ({name!r}), and the model knows 0 to "
                f"{self.n_vocabulary - 1}. Take the tokenizer and chat template that belong to these weights."
            )
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that goes on after a prompt."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, tokens: Tensor | list[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.no_grad()
    def _find_shape(self, config: Any) -> CacheShape:
        """Sizes for caches, as the model itself fills one: configs have many words for them.

        Raises:
            UnsupportedModelError: Layers differ in size, or keys and values do.
        """
        cache: Any = DynamicCache()
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.model.device)
        self.model(input_ids=tokens, use_cache=True, **{self.cache_name: cache})
        sizes = {tuple(states.shape[1::2]) for layer in cache.layers for states in (layer.keys, layer.values)}
        if len(sizes) != 1:
            said = ", ".join(f"{n_heads} of {width}" for n_heads, width in sorted(sizes)) or "none at all"
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not keep keys and values of one shape (KV heads: {said}). Use a "
                "model whose layers are alike."
            )
        [(n_kv_heads, head_dim)] = sizes
        return CacheShape(
            n_layers=len(cache.layers),
            n_q_heads=config.num_attention_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            dtype=self.model.dtype,
            device=self.model.device,
        )

    def _check_attention(self) -> None:
        """Read two tokens and see whether every layer's attention came by."""
        seen: set[int] = set()
        cache = FullCache(self.shape, 1, 2)
        cache.observer = lambda layer, query, key, scale: seen.add(layer)
        tokens, positions = torch.zeros(1, 2, dtype=torch.long, device=self.shape.device), self._first_positions(2)
        try:
            self.read(tokens, positions, cache)
        except LookupError:  # its attention was not told which cache it reads into
            self._hands_down = False
            self.read(tokens, positions, cache)
        missing = sorted(set(range(self.shape.n_layers)) - seen)
        if missing:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: layers {missing} bypass transformers' AttentionInterface. Use another "
                "model; docs/models.md lists the families that work."
            )

    def _first_positions(self, length: int) -> Tensor:
        return torch.arange(length, device=self.shape.device)[None]


def _argument_names(model: PreTrainedModel) -> tuple[str, bool]:
    """How a model's forward names what we hand over: transformers 5.24 renames `past_key_values` to `cache`.

    Returns:
        (The name of the cache, whether it takes names that it does not know and hands them down.)

    Raises:
        UnsupportedModelError: It takes no positions, so they would be those of a shrunken cache.
    """
    parameters = inspect.signature(model.forward).parameters
    if "position_ids" not in parameters:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes no position_ids, so it would count the slots that are left instead. Use a "
            "model that does; docs/models.md lists the families that work."
        )
    is_open = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return "cache" if "cache" in parameters else "past_key_values", is_open
