"""Which kernels compute the pointwise parts of a layer and of the loss on this device."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

import torch

from megatron_ettin.config.run import ComputeConfig
from megatron_ettin.errors import ConfigError

KernelKind = Literal["plain", "compiled", "own"]
"""plain: the extension's on a CPU, else torch's operations one after the other; compiled: by torch.compile; own: those
in `kernels.triton`, on a GPU alone."""


def kernel_kind(compute: ComputeConfig, device_kind: str) -> KernelKind:
    """The kind for a device, ``cpu`` or ``cuda``: own kernels where they can be and nobody wants others."""
    if device_kind == "cuda" and compute.kernels == "auto" and find_spec("triton"):
        return "own"
    return "compiled" if compute.compile else "plain"


def describe(kind: KernelKind, device_kind: str) -> str:
    """A line for the log: what computes, and on a GPU what would be faster."""
    if kind == "own":
        return f"kernels: own, by Triton {version('triton')}"
    if device_kind == "cpu":
        return "kernels: torch.compile" if kind == "compiled" else "kernels: the extension's"
    slow = "torch.compile" if kind == "compiled" else "torch's operations one by one, which read and write more"
    remedy = "install triton" if not find_spec("triton") else "leave out --compute.kernels torch"
    return f"kernels: {slow}; for own ones {remedy}"


def require_triton(device: torch.device) -> None:
    """Compile and run one small kernel. Raises ConfigError where Triton cannot, before anything is trained."""
    from megatron_ettin.kernels.triton import rotary

    try:
        angles = torch.zeros(1, 1, device=device)
        rotary.rotate_(torch.zeros(1, 1, 3, 2, device=device), angles, angles)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:  # a missing compiler, headers, driver or file system: Triton has no class for them
        raise ConfigError(
            f"Triton {version('triton')} cannot compile a kernel here: {error}; it needs a C compiler and a cache "
            "folder that can be written to (TRITON_CACHE_DIR). --compute.kernels torch does without it, and is slower"
        ) from error
