"""What this process may use of its machine."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores this process may use: those it is bound to, or all where the system binds none (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
