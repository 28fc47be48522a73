"""Speed of a step on either side, and a profile of ours."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.limits import H100, LIMIT_H200, PUBLISHED_H100, Ceilings, roofline
from benchmarks.gpu_parts.machine import Machine, median
from benchmarks.gpu_parts.ours import Ours
from benchmarks.gpu_parts.peer import Peer
from benchmarks.gpu_parts.rows import Row
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.count import label_share
from megatron_ettin.cost.hardware import peak_flops
from megatron_ettin.cost.memory import memory
from megatron_ettin.model import build
from megatron_ettin.model.attention.choice import attention_report, choices, last_layer_narrows
from megatron_ettin.model.pattern import layer_kinds

MOST_STEPS = 50
KERNELS = 40
"""Kernels of a profile that are kept."""
GIBI = 2.0**30


class Side(Protocol):
    """Something that takes steps."""

    tokens: int

    def step(self) -> object:
        """One step."""


AnySide = TypeVar("AnySide", bound=Side)


def fitting(make: Callable[[int], AnySide], rows: int) -> tuple[AnySide, int, float]:
    """A side whose first step fits into memory, with as many rows in a micro-batch as fit by halving.

    Returns the side, its rows, and the seconds of the first step, which compiles.
    """
    while True:
        side: AnySide | None = None
        try:
            side = make(rows)
            started = time.perf_counter()
            side.step()
            return side, rows, time.perf_counter() - started
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        side, rows = None, rows // 2
        gc.collect()
        torch.cuda.empty_cache()


def paced(side: Side, machine: Machine) -> dict[str, float]:
    """Tokens a second and the mean time of a step, after a warmup."""
    for _ in range(machine.scale.warmup_steps):
        side.step()
    once = machine.seconds(side.step)
    steps = min(MOST_STEPS, max(machine.scale.least_steps, round(machine.scale.timed_seconds / once)))
    seconds = machine.seconds(lambda: [side.step() for _ in range(steps)]) / steps
    return {"tokens_per_second": side.tokens / seconds, "step_seconds": seconds, "steps": steps}


def our_step(row: Row, machine: Machine, ceilings: Ceilings) -> dict[str, Any]:
    """Everything about our step of a row."""
    side, rows, first = fitting(lambda rows: Ours(row, machine, rows), machine.rows_of(row))
    machine.count_peak()
    config = side.config
    values: dict[str, Any] = {"micro_batch_rows": rows, "first_step_seconds": first} | paced(side, machine)
    values |= {"host_waits": machine.host_waits(side.step), "loss": side.step().loss} | launching(side, machine)
    values |= against_limits(row, side, machine, ceilings, values["tokens_per_second"])
    values |= memory_values(config, machine)
    made = choices(config, build.installed(machine.groups.device))
    values["choices"] = attention_report(made, layer_kinds(config), last_layer_narrows(config, made[-1], len(made)))
    return values


def launching(side: Ours, machine: Machine) -> dict[str, float]:
    """Seconds of forward and backward of a micro-batch: until the host has launched them, and until they are over."""
    found = []
    for _ in range(machine.scale.least_steps):
        machine.synchronize()
        started = time.perf_counter()
        side.launch()
        launched = time.perf_counter() - started
        machine.synchronize()
        found.append((launched, time.perf_counter() - started))
    host, whole = (median([times[part] for times in found]) for part in range(2))
    return {"host_seconds": host, "micro_batch_seconds": whole}


def against_limits(
    row: Row, side: Ours, machine: Machine, ceilings: Ceilings, rate: float
) -> dict[str, float | None]:
    """Shares of what is possible and ratios to what was published; None where this machine has no figure."""
    config, lengths = side.config, side.lengths
    objective = OBJECTIVES[config.objective]
    share = label_share(objective, config.data)
    here, datasheet = (roofline(config.model, objective.causal, lengths, share, known) for known in (ceilings, H100))
    peak = peak_flops(machine.name, row.precision)
    return {
        "mfu": None if peak is None else rate * side.step().flops / side.tokens / peak,
        "roofline_share": rate / here,
        "roofline_tokens_per_second": here,
        "h100_roofline_share": rate / datasheet,
        "published_ratio": rate / PUBLISHED_H100[row.size],
        "limit_share": rate / LIMIT_H200[row.size],
    }


def memory_values(config: RunConfig, machine: Machine) -> dict[str, float | None]:
    """The peak of tensors, and what `ettin estimate` says."""
    peak, estimate = machine.peak_bytes(), memory(config).total
    return {
        "peak_gibibytes": None if peak is None else peak / GIBI,
        "estimated_gibibytes": estimate / GIBI,
        "peak_to_estimate": None if peak is None else peak / estimate,
    }


def peer_step(row: Row, machine: Machine) -> dict[str, Any]:
    """The peer's step on the same work."""
    side, rows, first = fitting(lambda rows: Peer(row, machine, rows), machine.rows_of(row))
    machine.count_peak()
    pace, peak = paced(side, machine), machine.peak_bytes()
    return {
        "micro_batch_rows": rows,
        "first_step_seconds": first,
        **pace,
        "peak_gibibytes": None if peak is None else peak / GIBI,
    }


def profiled(row: Row, machine: Machine, trace: Path | None) -> dict[str, Any]:
    """The kernels of one step by time on the device, and the share of the step in which the device was busy.

    `trace`: a file for what happened when, as chrome://tracing and Perfetto read it.
    """
    side, rows, _ = fitting(lambda rows: Ours(row, machine, rows), machine.rows_of(row))
    pace = paced(side, machine)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if machine.is_gpu else [])
    with profile(activities=activities) as recorded:
        side.step()
        machine.synchronize()
    if trace is not None:
        recorded.export_chrome_trace(str(trace))
    kernels = [kernel for kernel in recorded.key_averages() if device_time(kernel, machine) > 0.0]
    kernels.sort(key=lambda kernel: -device_time(kernel, machine))
    busy = sum(device_time(kernel, machine) for kernel in kernels)
    return {
        "micro_batch_rows": rows,
        "step_seconds": pace["step_seconds"],
        "busy_share": busy / pace["step_seconds"],
        "launches": sum(kernel.count for kernel in kernels),
        "trace": trace and trace.name,
        "kernels": [
            {"name": kernel.key[:120], "calls": kernel.count, "seconds": device_time(kernel, machine),
             "share": device_time(kernel, machine) / busy}
            for kernel in kernels[:KERNELS]
        ],
    }  # fmt: skip


def device_time(event: Any, machine: Machine) -> float:
    """Seconds of a profile's entry on the device by itself; on the host in a dry run."""
    if not machine.is_gpu:
        return float(event.self_cpu_time_total) / 1e6
    is_kernel = event.device_type == torch.autograd.DeviceType.CUDA
    return float(event.self_device_time_total) / 1e6 if is_kernel else 0.0
