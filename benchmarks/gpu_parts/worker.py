"""The worker of the GPU benchmark: measures rows in one process until the time is up or the device is lost."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.gpu_parts.environment import environment
from benchmarks.gpu_parts.kernels import kernels
from benchmarks.gpu_parts.limits import H100
from benchmarks.gpu_parts.machine import TINY, Machine, Scale, ceilings_of
from benchmarks.gpu_parts.numerics import numerics
from benchmarks.gpu_parts.results import Results
from benchmarks.gpu_parts.rows import Row, plan, thinned, without_twins
from benchmarks.gpu_parts.speed import our_step, peer_step, profiled
from benchmarks.gpu_parts.supervisor import LOST
from benchmarks.gpu_parts.work import run_of
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.model import build
from megatron_ettin.model.attention.choice import choose
from megatron_ettin.model.pattern import layer_kinds
from megatron_ettin.parallel.groups import initialize

PATIENCE = 3.0
"""A row that takes longer than this many times what is expected, and the patience of the scale more, hangs."""


def measure(row: Row, machine: Machine, results: Results) -> dict[str, Any]:
    """The values of one row."""
    if row.kind == "machine":
        return machine.ceilings()
    if row.kind == "numerics":
        return numerics(row, machine)
    if row.kind == "peer":
        return peer_step(row, machine)
    if row.kind == "profile":
        return profiled(row, machine, results.beside(f"trace-{row.size}.json.gz"))
    found = results.rows.get(Row(kind="machine", compile=False).key, {})
    ceilings = ceilings_of(found["values"]) if "values" in found else H100
    return kernels(row, machine, ceilings) if row.kind == "kernels" else our_step(row, machine, ceilings)


def work_off(
    rows: Sequence[Row], machine: Machine, results: Results, left: Callable[[], float], patience: float = 60.0
) -> list[Row]:
    """Measure what is missing while `left()` seconds last; returns the rows that there was no time for.

    A row that fails is kept with the reason, whatever the reason. Raises SystemExit(LOST) when the device is lost to
    this process.
    """
    waiting = []
    for row in rows:
        if results.finished(row):
            continue
        if results.seconds(row) > left():
            waiting.append(row)
            continue
        results.begin(row, patience + PATIENCE * results.seconds(row))
        started = time.monotonic()
        machine.forget()
        try:
            values = measure(row, machine, results)
        except Exception as error:
            results.refuse(row, f"{type(error).__name__}: {str(error)[:500]}")
            if is_lost(error):
                print(f"{row.key}: {results.rows[row.key]['reason']}", flush=True)
                raise SystemExit(LOST) from error
        else:
            results.done(row, values, time.monotonic() - started)
        torch._dynamo.reset()
        print(f"{row.key}: {results.rows[row.key]['status']}, {time.monotonic() - started:.1f} s", flush=True)
    return waiting


def is_lost(error: Exception) -> bool:
    """Whether nothing works in this process any more: CUDA repeats such an error at every later call."""
    return "CUDA error" in str(error) or isinstance(error, getattr(torch, "AcceleratorError", ()))


def chosen(machine: Machine) -> str:
    """The attention back end that `auto` takes for a bf16 run here."""
    config = run_of(Row(kind="step"), machine, rows=1)
    return choose(layer_kinds(config)[0], config, build.installed(machine.groups.device)).backend


def age() -> float:
    """Seconds since this process began: imports count too."""
    return time.time() - psutil.Process().create_time()


def work(file: Path | None, budget: float, only: str, dry_run: bool) -> int:
    """Measure, and say how many rows are left."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    stand_ins: Any = nullcontext
    if dry_run:
        from benchmarks.gpu_parts.dry_run import stand_ins
    machine = Machine(groups=initialize(LayoutConfig()), scale=TINY if dry_run else Scale())
    with stand_ins():
        results = Results.open(file, environment(machine.name, sys.argv))
        results.close_lost()
        planned = thinned(plan()) if dry_run else without_twins(plan(), chosen(machine))
        rows = [row for row in planned if only in row.key]
        waiting = work_off(rows, machine, results, lambda: budget - age(), machine.scale.patience)
    settled = f"{len(rows) - len(waiting)} of {len(rows)} rows are settled"
    print(settled + ("; call again for the rest" if waiting else ""), flush=True)
    return 0
