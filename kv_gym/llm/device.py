"""Find out whether torch has a device before a model is read for it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kv_gym.errors import ConfigError

MEMINFO = Path("/proc/meminfo")
SHARES = {"cuda": 0.9}
"""Of free memory that may be planned with: the rest is for libraries' own memory and for gaps between tensors."""
SHARE = 0.8  # of a machine's own, which other programs take from too


def find_device(name: str) -> torch.device:
    """Return the torch device of that name.

    Raises:
        ConfigError: It is no device, or this machine or this torch has none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # of a device without memory (`meta`) nothing can be read
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError, by device
        reason = (str(error).splitlines() or [""])[0][:150]
        raise ConfigError(
            f"device={name!r} cannot be used ({reason}). Here torch {torch.__version__} has {', '.join(devices())}: "
            "use one of those, or install a torch for your accelerator."
        ) from error
    return device


def devices() -> list[str]:
    """Names of the devices that torch has here."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found = [] if accelerator is None else [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
    return ["cpu", *found]


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be taken there: what is free, and what torch holds in reserve; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _available() if device.type == "cpu" else None


def usable(memory: int, device: torch.device) -> int:
    """What of so many bytes may be planned with."""
    return int(SHARES.get(device.type, SHARE) * memory)


def _available() -> int | None:
    """Bytes of this machine's memory that are not in use; where it does not say, all that it has."""
    if MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
