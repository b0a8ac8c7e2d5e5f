"""Find out whether torch has a device before a model is read for it."""

from __future__ import annotations

import torch

from kv_gym.errors import ConfigError


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
