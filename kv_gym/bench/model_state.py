"""What a frozen LLM is when nobody has touched it, and what of it is other later.

Weights and buffers are told by their version, which every change in place raises, and by an exact checksum. The rest is
told by what stands in the model: modules, hooks, attributes, config, tokenizer.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kv_gym.bench.checksums import checksums
from kv_gym.llm.frozen import FrozenLLM

PLAIN = (bool, int, float, str, tuple, type(None), torch.dtype, torch.device)
DERIVED = "output_weights"  # of a FrozenLLM: a copy for agents, made when it is asked for
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # of a tokenizer


class ModelState:
    """A frozen LLM as it was when this was made.

    It holds the model's modules and tensors, so that none of them can be freed and another take its place.

    Args:
        llm: Which nobody has touched.
    """

    def __init__(self, llm: FrozenLLM) -> None:
        self._tables = [(owner, table, dict(table)) for owner, table in _tables(llm)]
        self._texts = dict(_texts(llm))
        self._tensors = _tensors(llm)
        self._versions = [tensor._version for tensor in self._tensors.values()]
        self._sums = checksums(list(self._tensors.values()))

    def written(self) -> list[str]:
        """Names of weights and buffers that were changed in place as torch knows; takes microseconds."""
        pairs = zip(self._tensors.items(), self._versions, strict=True)
        return [name for (name, tensor), version in pairs if tensor._version != version]

    def changes(self, llm: FrozenLLM) -> list[str]:
        """Names of everything that is other than it was; reads all weights."""
        sums = zip(self._tensors, self._sums, checksums(list(self._tensors.values())), strict=True)
        changed = self.written() + [name for name, before, now in sums if before != now]
        for owner, table, before in self._tables:
            changed += [f"{owner}{key}" for key in _differing(before, table)]
        now = dict(_texts(llm))
        return list(dict.fromkeys(changed + [name for name, text in self._texts.items() if now.get(name) != text]))


_STATES: weakref.WeakKeyDictionary[FrozenLLM, ModelState] = weakref.WeakKeyDictionary()


def model_state(llm: FrozenLLM) -> ModelState:
    """The state of a model when it was first asked for: before any agent saw it."""
    if llm not in _STATES:
        _STATES[llm] = ModelState(llm)
    return _STATES[llm]


def forget_derived(llm: FrozenLLM) -> None:
    """Let the copy of the output projection that agents are handed be made anew: who writes into it harms nobody."""
    vars(llm).pop(DERIVED, None)


def _tables(llm: FrozenLLM) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The live attributes of the LLM and of every module, and the weights, modules and hooks in them, by owner."""
    yield "the LLM's ", vars(llm)
    yield from _attributes("the model's ", vars(llm.model))
    for name, module in llm.model.named_modules():
        if name and not _moves_itself(module):
            yield from _attributes(f"the model's {name}.", vars(module))
    for name, table in vars(nn.modules.module).items():
        if name.startswith("_global_") and isinstance(table, dict):
            yield f"torch.nn's {name} ", table


def _moves_itself(module: nn.Module) -> bool:
    """Whether a RoPE stretches its frequencies as texts grow: its attributes change while it reads."""
    kind = str(getattr(module, "rope_type", ""))
    return "dynamic" in kind or "longrope" in kind


def _attributes(owner: str, attributes: dict[str, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    yield owner, attributes
    for name, table in attributes.items():
        if name.startswith("_") and isinstance(table, dict):
            yield owner if name in ("_parameters", "_buffers", "_modules") else f"{owner}{name} ", table


def _differing(before: dict[Any, Any], now: dict[Any, Any]) -> list[Any]:
    """Keys whose values are others: plain ones are compared, other things must be the very same."""
    if before.keys() == now.keys() and all(map(operator.is_, before.values(), now.values())):
        return []
    return [key for key in before.keys() | now.keys() if key != DERIVED and not _same(before, now, key)]


def _same(before: dict[Any, Any], now: dict[Any, Any], key: Any) -> bool:
    if key not in before or key not in now:
        return False
    one, other = before[key], now[key]
    return one is other or (isinstance(one, PLAIN) and type(one) is type(other) and repr(one) == repr(other))


def _tensors(llm: FrozenLLM) -> dict[str, Tensor]:
    """All weights and buffers, also those that no file holds, and the LLM's own tensors."""
    found = {f"the LLM's {name}": one for name, one in vars(llm).items() if isinstance(one, Tensor) and name != DERIVED}
    names: dict[Tensor, list[str]] = {}  # tied weights have several names
    for name, weight in llm.model.named_parameters(remove_duplicate=False):
        names.setdefault(weight, []).append(name)
    for owner, module in llm.model.named_modules():
        for name, buffer in module.named_buffers(recurse=False) if not _moves_itself(module) else ():
            names.setdefault(buffer, []).append(f"{owner}.{name}".lstrip("."))
    return found | {f"the model's {' = '.join(each)}": tensor for tensor, each in names.items()}


def _texts(llm: FrozenLLM) -> Iterator[tuple[str, str]]:
    """What is told by its text: the configs, and a tokenizer without its vocabulary, which takes seconds to read."""
    for name in ("config", "generation_config"):
        config = getattr(llm.model, name, None)
        yield f"the model's {name}", "" if config is None else repr(config.to_dict())
    tokenizer = llm.tokenizer
    yield "the tokenizer", repr([tokenizer.chat_template, tokenizer.padding_side, tokenizer.special_tokens_map])
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in PARTS if backend is not None else ():
        yield f"the tokenizer's {part}", repr(getattr(backend, part))
    yield "the tokenizer's size", str(len(tokenizer))
