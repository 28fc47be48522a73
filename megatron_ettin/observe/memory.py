"""The most memory that this process has held."""

from __future__ import annotations

import resource
import sys


def peak_bytes() -> int:
    """Peak of the accelerator's allocator where one is in use, else the peak resident size of the process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Peak resident size of the process; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
