"""What figures depend on: device, host, versions, command and date."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.reporting import hardware


def environment(device: str, command: list[str]) -> dict[str, str]:
    """What the figures depend on."""
    return {
        "device": device,
        "host": hardware(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        **{name: _version(name) for name in ("triton", "transformers", "megatron-core", "flash-attn-3")},
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(command),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
