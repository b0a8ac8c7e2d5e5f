"""What torch and the process are switched to: agents leave it as they found it, or it is put back and told."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.overrides import _pop_mode as _pop_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

Switch = tuple[Callable[[], Any], Callable[[Any], Any]]
DEVICE_KINDS = ("cpu", "cuda")
SMALLEST = 5e-324  # which a processor that flushes small numbers takes for 0
_held: list[Any] = []  # what ends when nobody holds it


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set for one backend only
        return "mixed"


def _device() -> Any:
    """The default device that somebody set; None where nobody did (`get_default_device` does not tell)."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _set_inference(on: bool) -> None:
    """End a mode that only whoever entered it could leave: another one is entered, for good."""
    _held.append(torch.inference_mode(on))
    _held[-1].__enter__()


def _autocast() -> list[tuple[bool, torch.dtype]]:
    return [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in DEVICE_KINDS]


def _set_autocast(found: list[tuple[bool, torch.dtype]]) -> None:
    for kind, (on, dtype) in zip(DEVICE_KINDS, found, strict=True):
        torch.set_autocast_enabled(kind, on)
        torch.set_autocast_dtype(kind, dtype)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _cudnn() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic


def _set_cudnn(found: tuple[bool, ...]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = found


def _flushes() -> bool:
    return SMALLEST * 1.0 == 0.0


def _function_modes() -> list[Any]:
    """Modes that lie on torch's functions, without that of the default device, which lies at the bottom."""
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return [mode for mode in _get_current_function_mode_stack() if mode is not default]


def _pop_modes(stack: Callable[[], list[Any]], pop: Callable[[], Any]) -> Callable[[int], None]:
    def back(depth: int) -> None:
        while len(stack()) > depth:
            pop()

    return back


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _precision_of(backend: Any) -> Switch:
    return (
        lambda: getattr(backend, "fp32_precision", None),
        lambda value: None if value is None else setattr(backend, "fp32_precision", value),
    )


SWITCHES: dict[str, Switch] = {
    "torch's function modes": (lambda: len(_function_modes()), _pop_modes(_function_modes, _pop_function_mode)),
    "torch's dispatch modes": (
        lambda: len(_get_current_dispatch_mode_stack()),
        _pop_modes(_get_current_dispatch_mode_stack, _pop_dispatch_mode),
    ),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (_device, torch.set_default_device),
    "gradients": (torch.is_grad_enabled, lambda on: torch._C._set_grad_enabled(on)),
    "inference mode": (torch.is_inference_mode_enabled, _set_inference),
    "autocast": (_autocast, _set_autocast),
    "the number of torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        _deterministic, lambda found: torch.use_deterministic_algorithms(found[0], warn_only=found[1]),
    ),
    "the precision of matrix products": (_matmul_precision, torch.set_float32_matmul_precision),
    "the precision of CUDA's matrix products": _precision_of(torch.backends.cuda.matmul),
    "the precision of oneDNN's matrix products": _precision_of(getattr(torch.backends.mkldnn, "matmul", None)),
    "cuDNN's flags": (_cudnn, _set_cudnn),
    "oneDNN": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    "the flushing of small numbers": (_flushes, torch.set_flush_denormal),
    "numpy's handling of errors": (np.geterr, lambda found: np.seterr(**found)),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the working directory": (_folder, lambda found: None if found is None else os.chdir(found)),
}  # fmt: skip
"""How each is read and set. In this order they are put back: some hold others."""


@contextlib.contextmanager
def switches_kept() -> Iterator[list[str]]:
    """Put back what is switched otherwise when the inside ends, however it ends.

    Yields:
        Names of what was put back; empty until then. Filters of warnings, which imports change too, are not told.
    """
    turned: list[str] = []
    before = {name: read() for name, (read, _) in SWITCHES.items()}
    filters = warnings.filters[:]
    with _streams_kept(turned):
        try:
            yield turned
        finally:
            warnings.filters[:] = filters  # type: ignore[index]
            for name, (read, write) in SWITCHES.items():
                if read() != before[name]:
                    turned.append(name)
                    write(before[name])


@contextlib.contextmanager
def _streams_kept(turned: list[str]) -> Iterator[None]:
    """Put standard output and standard error back; one that was closed is opened again."""
    kept = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    copies = {name: _copy_of(stream) for name, stream in kept.items()}
    try:
        yield
    finally:
        for name, stream in kept.items():
            closed = getattr(stream, "closed", False)
            if getattr(sys, name) is not stream or closed:
                turned.append(f"sys.{name}")
                setattr(sys, name, _opened_again(stream, copies[name]) if closed else stream)
        for copy in copies.values():
            if copy is not None:
                os.close(copy[1])


def _copy_of(stream: Any) -> tuple[int, int] | None:
    """Descriptor of a stream's file, and another one; None where it has none, as under a test's capture."""
    try:
        return stream.fileno(), os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _opened_again(stream: Any, copy: tuple[int, int] | None) -> Any:
    """A stream to where the closed one wrote."""
    if copy is None:
        return open(os.devnull, "w", encoding="utf-8")
    os.dup2(copy[1], copy[0])
    return open(copy[0], "w", encoding=stream.encoding, errors="replace", buffering=1, closefd=False)
