#!/usr/bin/env python3
"""How long the loop waits for a checkpoint that is written beside the training, against one that it writes itself.

The 150M shape. Both ways save the same parts to the same disk in turns, flushed; the first of each does not count.
Nothing is trained while a save is on its way: what a training would lose to the thread is the CPU time that is given.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import Claim, claim, require, show

require("torch", "megatron.core", install="pip install .")

import torch  # noqa: E402

from megatron_ettin.checkpoint.background import HostCopies  # noqa: E402
from megatron_ettin.checkpoint.state import TrainState  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.config.run import LayoutConfig  # noqa: E402
from megatron_ettin.parallel.groups import initialize  # noqa: E402
from megatron_ettin.run_folder import list_checkpoints  # noqa: E402
from megatron_ettin.train.parts import Parts, build_parts  # noqa: E402
from megatron_ettin.train.store import begin_save, save_run  # noqa: E402

TARGET = 10.0
"""Per cent of a save in the loop."""


def parts_of(size: str) -> Parts:
    """A model with its optimizer's state, on this process alone."""
    config = recipe(size, "mlm", "pretrain")
    config = replace(config, layout=LayoutConfig(), model=replace(config.model, vocabulary=50_368))
    parts = build_parts(config, initialize(config.layout), sources=1)
    parts.optimizer.optimizer.prepare_state()
    return parts


def in_the_loop(parts: Parts, run: Path, step: int) -> float:
    """Seconds of a save in the loop."""
    started = time.perf_counter()
    save_run(parts, run, TrainState(step=step), "steps", "data")
    return time.perf_counter() - started


def beside(parts: Parts, run: Path, step: int, copies: HostCopies) -> tuple[float, float, float]:
    """Seconds that the loop waits, seconds until the checkpoint is there, CPU seconds of the writing."""
    started = time.perf_counter()
    save = begin_save(parts, run, TrainState(step=step), "steps", "data", copies)
    waited, busy = time.perf_counter() - started, time.process_time()
    save.finish()
    return waited, time.perf_counter() - started, time.process_time() - busy


def measured(size: str, folder: Path, rounds: int) -> list[Claim]:
    """Both ways in turns."""
    parts, copies = parts_of(size), HostCopies()
    loops, waits, wholes, busy = [], [], [], []
    for number in range(rounds + 1):
        loops.append(in_the_loop(parts, folder, 2 * number + 1))
        times = beside(parts, folder, 2 * number + 2, copies)
        for kept, value in zip((waits, wholes, busy), times, strict=True):
            kept.append(value)
        held = sum(path.stat().st_size for path in list_checkpoints(folder)[-1].path.rglob("*") if path.is_file())
        for checkpoint in list_checkpoints(folder):
            shutil.rmtree(checkpoint.path)
    loop, wait, whole, cpu = (statistics.median(values[1:]) for values in (loops, waits, wholes, busy))
    note = (
        f"waits {wait:.2f} s (the first time {waits[0]:.2f} s), in the loop {loop:.2f} s; there after {whole:.2f} s, "
        f"{cpu:.2f} s of CPU time beside the training; {held / 1e9:.2f} GB"
    )
    name = f"{size}: wait of the loop over a save in the loop"
    return [claim(name, 100 * wait / loop, None, "%", TARGET, lower_is_better=True, note=note)]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the 17M shape, two rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to save; default: the system's temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    size, rounds = ("17m", 2) if options.quick else ("150m", options.rounds)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show(measured(size, Path(folder), rounds), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
