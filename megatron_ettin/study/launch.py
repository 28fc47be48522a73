"""``python -m megatron_ettin.study.launch``: torchrun that adds no traceback to what its ranks say."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

SHUTDOWN_SECONDS = "600"
"""Ranks that are asked to stop end their step and save; torchrun alone would kill them after 30 seconds."""
SIGNALLED = 128
"""Added to the number of a signal, as shells do."""


def main(arguments: Sequence[str]) -> int:
    """Run the ranks. The exit status is that of the rank that failed first, or tells the signal that stopped them."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
