"""What a result was made with: versions, hardware, source tree."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import kv_gym
from kv_gym.llm.tokens import How

LIBRARIES = ("torch", "transformers", "gymnasium", "numpy", "safetensors", "tokenizers")


def versions() -> dict[str, str]:
    """Versions of kv_gym, python and the libraries that can move a number."""
    found = {"kv_gym": kv_gym.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def computation(dtype: torch.dtype, device: torch.device, how: How, found: Mapping[str, str] | None = None) -> str:
    """How numbers are computed, as far as that can move them: `float32 cpu eager torch-2.13 transformers-5.23`.

    Args:
        dtype: Of the model.
        device: It is on.
        how: Tokens are read.
        found: Versions, where not those of now.
    """
    kinds = [str(dtype).removeprefix("torch."), device.type, how]
    found = found or versions()
    return " ".join([*kinds, *(f"{name}-{'.'.join(found[name].split('.')[:2])}" for name in ("torch", "transformers"))])


def how_computed(line: str) -> str:
    """How tokens were read, from a `computation`; rows of older versions do not say, and were eager."""
    words = line.split()
    return words[2] if len(words) > 2 else "eager"


def command() -> str:
    """What was typed, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def hardware(device: torch.device) -> dict[str, str | int]:
    """Name of CPU and device, cores and platform."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {"cpu": _cpu_model(), "cores": os.cpu_count() or 0, "platform": platform.platform(), "device": name}


def git_state(folder: Path | None = None, output: Path | None = None) -> dict[str, str | bool] | None:
    """Commit of the source tree, and whether it differs from it; None where this package is not under version control.

    Args:
        folder: A folder of the tree; default is this package's.
        output: A folder of results inside the tree; what changes there does not make it dirty.
    """
    folder = folder or Path(kv_gym.__file__).parent
    if not _git(folder, "ls-files", "."):  # installed into somebody else's repository, for example
        return None
    top = Path(_git(folder, "rev-parse", "--show-toplevel") or folder).resolve()
    place = top if output is None else output.resolve()
    inside = place.is_relative_to(top) and place != top
    but = [f":(exclude){place.relative_to(top).as_posix()}"] if inside else []
    commit = _git(top, "rev-parse", "--verify", "HEAD")
    changes = _git(top, "status", "--porcelain", "--untracked-files=all", "--", ".", *but)
    return None if not commit or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()
