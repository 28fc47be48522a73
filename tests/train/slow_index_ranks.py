"""A run whose first rank takes long over its row indexes: ``-m tests.train.slow_index_ranks CORPUS RUN END SECONDS``.

With ``fails`` as END the build ends with an error.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from megatron_ettin.train import run as run_module
from tests.train.runs import config_of, go

CLOCK = 8.0
"""Seconds that a collective waits."""


def main(corpus: str, run: str, end: str, seconds: str) -> None:
    """What each rank runs."""
    begin, open_data = dist.init_process_group, run_module.open_data

    def open_slowly(config):
        if dist.get_rank() == 0 and not list(Path(config.data.data).parent.glob("*.pack")):
            time.sleep(float(seconds))
            print("built", flush=True)
            if end == "fails":
                raise OSError("the disk has gone")
        return open_data(config)

    dist.init_process_group = lambda *a, **options: begin(*a, **options | {"timeout": timedelta(seconds=CLOCK)})
    run_module.open_data = open_slowly
    go(config_of(Path(corpus), steps=2), Path(run))
    print("finished", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
