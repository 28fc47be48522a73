"""Keeps a worker going: one that lost the device, was killed or hangs is followed by another that goes on."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_parts.results import RUNNING, Entry, Results, lines_of
from benchmarks.gpu_parts.rows import Row

SPENT, LOST = 3, 4
"""How a worker ends that is stopped within a row because time is up, and one whose process can compute nothing more."""
WORTH = 60.0
"""Seconds that must be left for another worker: it needs a third of them for its imports."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the file of results."""
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def supervise(command: Callable[[float], list[str]], budget: float, file: Path) -> int:
    """Run `command(seconds left)` until it ends by itself or the time is up; returns its status.

    Only a device that was lost and a signal, as from the kernel when memory is short or from here when a row takes
    longer than the limit in its line of the file, are worth another try.
    """
    end = time.monotonic() + budget
    while True:
        status = _watch(command(end - time.monotonic()), file, end)
        left = end - time.monotonic()
        if not (status == LOST or status < 0) or left < WORTH:
            return status
        print(f"the worker ended with status {status}; another goes on", flush=True)


def _watch(command: list[str], file: Path, end: float) -> int:
    """The status of a worker. One that hangs in a row is killed, and so is one that is not done at the end.

    A thread of the worker could not do it: a call of the driver that hangs can hold the interpreter's lock.
    """
    before = seen = last_line(file)  # of a row in which an earlier worker ended, perhaps
    worker = subprocess.Popen(command, preexec_fn=_end_with_parent)
    try:
        since = time.monotonic()
        while worker.poll() is None:
            time.sleep(LOOK_EVERY)
            line, now = last_line(file), time.monotonic()
            if line != seen:
                seen, since = line, now
            hangs = line != before and line.get("status") == RUNNING and now - since > line["limit_seconds"]
            if not hangs and now < end:
                continue
            worker.kill()
            worker.wait()
            print(f"{line.get('key')}: {'hangs' if hangs else 'the budget is spent'}", flush=True)
            if not hangs:
                return SPENT
            Results(file, {}).refuse(Row(**line["row"]), f"no end after {line['limit_seconds']:.0f} s")
        return worker.returncode
    finally:
        worker.kill()


def last_line(file: Path) -> Entry:
    """What was written last; nothing yet: an empty one."""
    return (lines_of(file) or [{}])[-1]


def _end_with_parent() -> None:
    """In a new process on Linux: no worker goes on measuring when nobody keeps its time."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
