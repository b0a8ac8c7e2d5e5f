"""Exact checksums of tensors: they see changes that torch does not count, through numpy or `.data`.

They add whole numbers, so neither rounding nor the number of threads moves them, and they know places: what is sorted
or swapped has another sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = 1021  # a prime: what moves by whole rows or heads lands in other columns
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


@functools.cache
def weights(device: str) -> tuple[Tensor, Tensor]:
    """What columns are multiplied by, and what the numbers behind the last whole row are; odd, two of [COLUMNS]."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(-(2**62), 2**62, (2, COLUMNS), generator=generator) * 2 + 1
    return both[0].to(device), both[1].to(device)
