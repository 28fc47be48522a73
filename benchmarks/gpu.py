#!/usr/bin/env python3
"""Everything about a training step on one GPU, row by row, the most valuable rows first.

    python benchmarks/gpu.py --budget-seconds 540 --resume results.json

A finished row is in the file at once; the next call goes on with what is missing. A row that this machine cannot do
is kept with the reason. `--dry-run` takes the same way through tiny models on a CPU, with stand-ins for the kernels.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # behind the installed package, which is built

import psutil
import torch

from benchmarks.gpu_parts.limits import H100
from benchmarks.gpu_parts.machine import TINY, Machine, Scale, ceilings_of
from benchmarks.gpu_parts.numerics import numerics
from benchmarks.gpu_parts.results import Results, environment, table
from benchmarks.gpu_parts.rows import Row, plan, thinned
from benchmarks.gpu_parts.speed import our_step, peer_step, profiled
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.errors import EttinError
from megatron_ettin.parallel.groups import initialize

CANNOT = (EttinError, ImportError, NotImplementedError, AssertionError, RuntimeError, ValueError, TypeError)
"""What a row that a machine cannot do raises; the row is kept as refused, and the next one is tried."""


def measure(row: Row, machine: Machine, results: Results) -> dict[str, Any]:
    """The values of one row."""
    if row.kind == "machine":
        return machine.ceilings()
    if row.kind == "numerics":
        return numerics(row, machine)
    if row.kind == "peer":
        return peer_step(row, machine)
    if row.kind == "profile":
        return profiled(row, machine)
    found = results.rows.get(Row(kind="machine", compile=False).key, {})
    ceilings = ceilings_of(found["values"]) if "values" in found else H100
    return our_step(row, machine, ceilings)


def work_off(rows: Sequence[Row], machine: Machine, results: Results, left: Callable[[], float]) -> list[Row]:
    """Measure what is missing while `left()` seconds last; returns the rows that there was no time for."""
    waiting = []
    for row in rows:
        if results.finished(row):
            continue
        if results.seconds(row) > left():
            waiting.append(row)
            continue
        results.begin(row)
        started = time.monotonic()
        machine.forget()
        try:
            values = measure(row, machine, results)
        except CANNOT as error:
            if "CUDA error" in str(error):
                raise  # nothing works in this process any more; the next call tries the row once more
            results.refuse(row, f"{type(error).__name__}: {str(error)[:500]}")
        else:
            results.done(row, values, time.monotonic() - started)
        torch._dynamo.reset()
        print(f"{row.key}: {results.rows[row.key]['status']}, {time.monotonic() - started:.1f} s", flush=True)
    return waiting


def age() -> float:
    """Seconds since this process began: imports count too."""
    return time.time() - psutil.Process().create_time()


def leave_at(seconds: float) -> threading.Timer:
    """End the process when a row takes longer than there is time; the file names it, and it is tried once more.

    Cancel the result when no row is being measured any more.
    """

    def leave() -> None:
        print("the budget is spent within a row; the next call tries it again", flush=True)
        os._exit(3)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    if seconds > 0.0:
        timer.start()
    return timer


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and say how many rows are left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-seconds", type=float, default=540.0, help="stop before this much time has passed")
    parser.add_argument("--resume", type=Path, help="file of results to go on with and to write")
    parser.add_argument("--only", default="", help="only rows whose key contains this")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on a CPU, stand-ins for the kernels")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU here; --dry-run takes the same way on a CPU")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.dry_run:
        from benchmarks.gpu_parts.dry_run import stand_ins
    machine = Machine(groups=initialize(LayoutConfig()), scale=TINY if options.dry_run else Scale())
    with stand_ins() if options.dry_run else nullcontext():
        results = Results.open(options.resume, environment(machine.name, sys.argv))
        results.close_lost()
        timer = leave_at(options.budget_seconds - age())
        rows = [row for row in (thinned(plan()) if options.dry_run else plan()) if options.only in row.key]
        waiting = work_off(rows, machine, results, lambda: options.budget_seconds - age())
        timer.cancel()
    print("\n".join(table(results)))
    print(f"{len(rows) - len(waiting)} of {len(rows)} rows are settled" + (
        "; call again for the rest" if waiting else ""
    ))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
