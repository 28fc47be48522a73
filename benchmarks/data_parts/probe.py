"""Run as a process of its own: opens a corpus, serves a batch, and says how long that took and how much it held.

Prints {"seconds", "anonymous_mib", "modules"}; seconds run from the start of the process.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

START = time.time()


def started() -> float:
    """When this process began, by the kernel's account."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / 100


class AnonymousPeak:
    """Samples the anonymous resident memory of this process every few milliseconds."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.003):
            self.sample()

    def sample(self) -> None:
        """Take one sample now."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                self.peak = max(self.peak, int(line.split()[1]) / 1024)

    def close(self) -> float:
        """Stop; the peak in MiB."""
        self.sample()
        self._stop.set()
        return self.peak


def first_batch(prefix: str) -> None:
    """What a run does before its first step."""
    from benchmarks.data_parts.runs import run_on
    from megatron_ettin.config.sharing import Sharing
    from megatron_ettin.rows.loader import Loader
    from megatron_ettin.rows.run_data import open_data

    stage = open_data(run_on(prefix), threads=int(sys.argv[2]) if len(sys.argv) > 2 else None)
    with Loader(stage, "mlm", sharing=partial(Sharing, ranks=176, size=16), ahead=1) as loader:
        next(loader)


def main() -> None:
    """Measure."""
    memory = AnonymousPeak()
    first_batch(sys.argv[1])
    result = {"seconds": time.time() - started(), "anonymous_mib": memory.close(), "torch": "torch" in sys.modules}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
