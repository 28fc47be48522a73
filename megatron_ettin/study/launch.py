"""``python -m megatron_ettin.study.launch``: torchrun that adds no traceback to what its ranks say.

It ends with their exit status, and SIGUSR1, which torchrun would die of, goes on to the ranks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

SHUTDOWN_SECONDS = "600"
"""Ranks that are asked to stop end their step and save; torchrun alone would kill them after 30 seconds."""
SIGNALLED = 128
"""Added to the number of a signal, as shells do."""


def main(arguments: Sequence[str]) -> int:
    """Run the ranks. The exit status is that of the rank that failed first, or tells the signal that stopped them."""
    asked = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.set())
    threading.Thread(target=tell_ranks, args=(asked,), daemon=True).start()
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = torchrun.parse_args(list(arguments))  # type: ignore[no-untyped-call]
    if options.nproc_per_node != "1":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torchrun does, with a warning at each start
    try:
        torchrun.run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else SIGNALLED - first.exitcode
    except SignalException as stop:
        return SIGNALLED + int(stop.sigval)
    return 0


def tell_ranks(asked: threading.Event) -> None:
    """Once ``asked``, send SIGUSR1 to every child once, to those that start later too."""
    asked.wait()
    import psutil

    this = psutil.Process()
    told: set[int] = set()
    while True:
        for child in this.children():
            if child.pid not in told:
                told.add(child.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGUSR1)
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
