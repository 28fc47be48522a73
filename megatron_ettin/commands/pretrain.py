"""``torchrun ... -m megatron_ettin pretrain SIZE OBJECTIVE STAGE --run DIR --data ...``: train or go on."""

from __future__ import annotations

import signal

from megatron_ettin.commands.run_flags import parse_run
from megatron_ettin.heavy_imports import heavy_imports


def main(arguments: list[str]) -> int:
    """Train or resume. Status 0: the stage is finished; 75 or 130: saved after SIGTERM or SIGUSR1, or after Ctrl-C."""
    config, run = parse_run(arguments, "pretrain")
    with heavy_imports():
        from megatron_ettin.export.huggingface import read_canonical
        from megatron_ettin.parallel.groups import finish
        from megatron_ettin.train.run import train
        from megatron_ettin.train.signals import EXIT_INTERRUPTED, EXIT_STOPPED

    outcome = train(config, run, read_canonical)
    finish()
    if not outcome.signal:
        return 0
    return EXIT_INTERRUPTED if outcome.signal == signal.SIGINT else EXIT_STOPPED
