"""Exact checksums of tensors: they see changes that torch does not count, through numpy or `.data`.

They add whole numbers, so neither rounding nor the number of threads moves them, and they know places: what is sorted
or swapped has another sum.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

COLUMNS = 1021  # a prime: what moves by whole rows or heads lands in other columns
SMALL = 2**20  # bytes
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """A number for each tensor that changes when its contents do; read from the device at once."""
    if not tensors:
        return []
    sums = [_checksum(one.detach()) for one in tensors]
    return [int(total) for total in torch.stack([one.to(sums[0].device) for one in sums]).tolist()]


def _checksum(tensor: Tensor) -> Tensor:
    """Sums of the columns, each times a number of its own, modulo 2**64."""
    bits = _whole_numbers(tensor.reshape(-1))
    columns, more = weights(str(bits.device))
    rows = len(bits) // COLUMNS
    body, rest = bits[: rows * COLUMNS], bits[rows * COLUMNS :]
    total = (rest * more[: len(rest)]).sum()
    return total + (body.view(rows, COLUMNS).sum(0, dtype=torch.int64) * columns).sum() if rows else total


def _whole_numbers(flat: Tensor) -> Tensor:
    """The bits of numbers [n] as whole numbers, eight bytes at a time where they can be read so."""
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    size = flat.element_size()
    if size < 8 and (flat.numel() * size) % 8 == 0 and (flat.storage_offset() * size) % 8 == 0:
        return flat.view(torch.int64)
    return flat.view(WHOLE[size])


class Snapshot:
    """Tensors as they are now; `changes` says which of them are other later.

    Small ones are copied in one piece, which is cheaper than to sum each; of the others a checksum is kept.

    Args:
        tensors: By name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        small = [name for name, one in tensors.items() if one.numel() * one.element_size() <= SMALL]
        self._small = {name: tensors[name] for name in small}
        self._large = {name: one for name, one in tensors.items() if name not in self._small}
        self._forms = [_form(one) for one in tensors.values()]
        self._tensors = tensors
        self._copy, self._sums = _joined(self._small), checksums(list(self._large.values()))

    def changes(self) -> list[str]:
        """Names of the tensors that are other than they were: by torch's count, by form and place, or by content."""
        changed = [
            name for (name, one), form in zip(self._tensors.items(), self._forms, strict=True) if _form(one) != form
        ]
        if changed:
            return changed
        sums = zip(self._large, self._sums, checksums(list(self._large.values())), strict=True)
        changed = [name for name, before, now in sums if before != now]
        copy = _joined(self._small)
        if not torch.equal(copy.view(torch.int64), self._copy.view(torch.int64)):  # an eighth of the comparisons
            changed += [name for name, before, now in self._pieces(copy) if not before.equal(now)]
        return changed

    def _pieces(self, copy: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Small tensors by name: their bytes then and in `copy`."""
        end = 0
        for name, one in self._small.items():
            start, end = end, end + one.numel() * one.element_size()
            yield name, self._copy[start:end], copy[start:end]


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor._version, tensor.shape, tensor.stride(), tensor.data_ptr()


def _joined(tensors: Mapping[str, Tensor]) -> Tensor:
    """The bytes of tensors behind each other, and zeros up to a multiple of eight."""
    parts = [one.detach().reshape(-1).view(torch.uint8) for one in tensors.values()]
    parts += [torch.zeros(-sum(map(len, parts)) % 8, dtype=torch.uint8, device=one.device) for one in parts[:1]]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)


@functools.cache
def weights(device: str) -> tuple[Tensor, Tensor]:
    """What columns are multiplied by, and what the numbers behind the last whole row are; odd, two of [COLUMNS]."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(-(2**62), 2**62, (2, COLUMNS), generator=generator) * 2 + 1
    return both[0].to(device), both[1].to(device)
