"""``torchrun ... -m megatron_ettin pretrain SIZE OBJECTIVE STAGE --run DIR --data ...``: train or go on."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from dataclasses import dataclass

from megatron_ettin.commands.run_flags import RunFlags, parse_flags, run_folder
from megatron_ettin.heavy_imports import heavy_imports
from megatron_ettin.launcher import end_with_launcher
from megatron_ettin.run_folder import own_run
from megatron_ettin.train.signals import EXIT_INTERRUPTED, EXIT_STOPPED, StopRequest


@dataclass(frozen=True, kw_only=True)
class PretrainFlags(RunFlags):
    """Train a stage, or go on where it stopped: the same command both times. Runs under torchrun."""

    take_over: bool = False
    """Do not wait for heartbeats of an owner on another host: it is known to be gone."""
    change_at: int | None = None
    """Go on from the checkpoint of this step with other settings of schedule, optimizer or guard, such as a lower rate.
    The change is recorded in changes.jsonl; later checkpoints and records are kept under other names."""
    start_over: bool = False
    """Begin at step 0 although the folder holds a run; what is there is kept under other names."""


def main(arguments: list[str]) -> int:
    """Train or resume. Status 0: the stage is finished; 75 or 130: saved after SIGTERM or SIGUSR1, or after Ctrl-C."""
    config, flags = parse_flags(arguments, PretrainFlags, "pretrain")
    run = run_folder(config, flags)
    end_with_launcher()
    owns = os.environ.get("RANK", "0") == "0"  # known before the ranks know one another
    command = shlex.join(sys.orig_argv)
    with (
        StopRequest() as stop,
        own_run(run, command, take_over=flags.take_over) if owns else contextlib.nullcontext() as claim,
    ):
        with heavy_imports():
            from megatron_ettin.export.huggingface import read_canonical
            from megatron_ettin.parallel.groups import finish
            from megatron_ettin.train.run import train

        still_owned = claim.require if claim else lambda: None
        outcome = train(
            config, run, read_canonical, start_over=flags.start_over, change_at=flags.change_at,
            still_owned=still_owned, stop=stop,
        )  # fmt: skip
        finish()
    return exit_status(outcome.signal)


def exit_status(received: int) -> int:
    """The status of a run that the signal ``received`` has stopped; 0: none has."""
    if not received:
        return 0
    return EXIT_INTERRUPTED if received == signal.SIGINT else EXIT_STOPPED
