"""Keeps a worker going: one that lost the device, or was killed, is followed by another that goes on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

SPENT, LOST = 3, 4
"""How a worker ends that ran out of time within a row, and one whose process can compute nothing any more."""
WORTH = 60.0
"""Seconds that must be left for another worker: it needs a third of them for its imports."""


def supervise(command: Callable[[float], list[str]], budget: float) -> int:
    """Run `command(seconds left)` until it ends by itself or the time is up; returns its status.

    Only a device that was lost and a signal, as from the kernel when memory is short, are worth another try.
    """
    end = time.monotonic() + budget
    while True:
        status = subprocess.run(command(end - time.monotonic())).returncode
        left = end - time.monotonic()
        if not (status == LOST or status < 0) or left < WORTH:
            return status
        print(f"the worker ended with status {status}; another goes on", flush=True)
