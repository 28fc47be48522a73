"""How benchmarks report: a table for people, then one JSON object a line and claim."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


def hardware() -> str:
    """Processor, cores this process may use, and memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{models[0] if models else platform.machine()}, {cores} cores, {memory:.0f} GiB"


def require(*modules: str, install: str) -> None:
    """End the program with status 2, and say how to install what it is measured against, when a module is not there."""

    def found(module: str) -> bool:
        try:
            return importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # its package is not there
            return False

    if missing := [module for module in modules if not found(module)]:
        print(f"error: {', '.join(missing)} not installed in {sys.executable}; run: {install}", file=sys.stderr)
        raise SystemExit(2)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of the report."""

    claim: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    target: float | None
    met: bool | None
    hardware: str
    peer_name: str = ""
    note: str = ""


def claim(
    name: str,
    ours: float,
    peer: float | None,
    unit: str,
    target: float | None = None,
    *,
    lower_is_better: bool = False,
    peer_name: str = "",
    note: str = "",
) -> Claim:
    """A claim with its ratio (above 1: ours is better) and whether the target is met."""
    ratio = None if not peer else (peer / ours if lower_is_better else ours / peer)
    met = None if target is None else (ours <= target if lower_is_better else ours >= target)
    return Claim(
        claim=name, ours=ours, peer=peer, unit=unit, ratio=ratio, target=target, met=met, hardware=hardware(),
        peer_name=peer_name, note=note,
    )  # fmt: skip


def show(claims: list[Claim], file: Path | None = None) -> None:
    """Print the table and the JSON lines; write the lines to ``file`` as well."""
    print(f"{'claim':<58} {'ours':>11} {'peer':>11} {'ratio':>8} {'target':>10} {'met':>4}  unit, peer, note")
    for row in claims:
        cells = [_number(value) for value in (row.ours, row.peer, row.ratio, row.target)]
        met = {True: "yes", False: "NO", None: "-"}[row.met]
        words = ", ".join(part for part in (row.unit, row.peer_name, row.note) if part)
        print(f"{row.claim:<58} {cells[0]:>11} {cells[1]:>11} {cells[2]:>8} {cells[3]:>10} {met:>4}  {words}")
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in claims)
    print(lines, end="")
    if file is not None:
        file.write_text(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def interleaved(jobs: dict[str, Callable[[], float]], rounds: int = 3) -> dict[str, float]:
    """The median of what each job returns, the jobs taking turns in every round."""
    results: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            results[name].append(job())
    return {name: statistics.median(values) for name, values in results.items()}


def cpu_seconds(job: Callable[[], object]) -> float:
    """Process CPU time of a call."""
    start = time.process_time()
    job()
    return time.process_time() - start


def wall_seconds(job: Callable[[], object]) -> float:
    """Elapsed time of a call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start
