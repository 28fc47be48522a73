"""``torchrun ... -m megatron_ettin pretrain SIZE OBJECTIVE STAGE --run DIR --data ...``: train or go on."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.commands.plan_flags import asks_for_plan, parse_plan
from megatron_ettin.commands.run_flags import RunFlags, parse_flags, run_folder
from megatron_ettin.errors import ConfigError
from megatron_ettin.heavy_imports import heavy_imports
from megatron_ettin.launcher import end_with_launcher
from megatron_ettin.progress import say
from megatron_ettin.run_folder import own_run
from megatron_ettin.train.signals import EXIT_INTERRUPTED, EXIT_STOPPED, StopRequest


@dataclass(frozen=True, kw_only=True)
class PretrainFlags(RunFlags):
    """Train a stage, or go on where it stopped: the same command both times. Runs under torchrun."""

    take_over: bool = False
    """Do not wait for heartbeats of an owner on another host: it is known to be gone."""
    change_at: int | None = None
    """Go on from the checkpoint of this step with other settings of schedule, optimizer, guard or fp8 scales.
    The change is recorded in changes.jsonl; later checkpoints and records are kept under other names."""
    start_over: bool = False
    """Begin at step 0 although the folder holds a run; what is there is kept under other names."""


def main(arguments: list[str]) -> int:
    """Train or resume. Status 0: finished, all stages of a plan; 75 or 130: saved after a signal, or after Ctrl-C."""
    if asks_for_plan(arguments):
        return main_of_plan(arguments)
    config, flags = parse_flags(arguments, PretrainFlags, "pretrain")
    run = run_folder(config, flags)
    with started(run, flags) as (stop, still_owned):
        with heavy_imports():
            from megatron_ettin.export.huggingface import read_canonical
            from megatron_ettin.parallel.groups import finish
            from megatron_ettin.train.run import train

        outcome = train(
            config, run, read_canonical, start_over=flags.start_over, change_at=flags.change_at,
            still_owned=still_owned, stop=stop,
        )  # fmt: skip
        finish()
    return exit_status(outcome.signal)


def main_of_plan(arguments: list[str]) -> int:
    """Train the stages of a plan, or go on with them; the status is as that of a single stage."""
    planned, flags = parse_plan(arguments, PretrainFlags, "pretrain")
    if flags.change_at is not None:
        raise ConfigError("--change-at changes a single run; the settings of a plan's stages are those of its file")
    with started(planned.folder, flags) as (stop, still_owned):
        with heavy_imports():
            from megatron_ettin.export.huggingface import read_canonical
            from megatron_ettin.parallel.groups import finish
            from megatron_ettin.train.walk import Walk, walk

        this = Walk(
            plan=planned.plan, choices=planned.choices, stages=planned.stages, folder=planned.folder,
            command=shlex.join(sys.orig_argv), start_over=flags.start_over, take_over=flags.take_over,
        )  # fmt: skip
        received = walk(this, read_canonical, stop, still_owned=still_owned, say=say)
        finish()
    return exit_status(received)


@contextlib.contextmanager
def started(folder: Path, flags: PretrainFlags) -> Iterator[tuple[StopRequest, Callable[[], None]]]:
    """Listen to signals, end with the launcher and own a folder, on the first rank, as long as it is trained in."""
    end_with_launcher()
    owns = os.environ.get("RANK", "0") == "0"  # known before the ranks know one another
    command = shlex.join(sys.orig_argv)
    with (
        StopRequest() as stop,
        own_run(folder, command, take_over=flags.take_over) if owns else contextlib.nullcontext() as claim,
    ):
        yield stop, claim.require if claim else lambda: None


def exit_status(received: int) -> int:
    """The exit status after a signal; 0: there was none."""
    if not received:
        return 0
    return EXIT_INTERRUPTED if received == signal.SIGINT else EXIT_STOPPED
