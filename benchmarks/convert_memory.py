#!/usr/bin/env python3
"""Peak memory of ``ettin convert`` above an empty process, in units of the float32 weights.

A run of random main weights is made first; no other tensor of a checkpoint is read. Then two processes each tell their
peak resident memory, file mappings included: one that imports all that convert imports and prepares the device, and one
that converts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TARGET = 1.3
MIB = 2**20


def peak() -> int:
    """Peak resident bytes of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def make(folder: Path, size: str) -> None:
    """A run of the shape with random main weights in ``folder``/run, and a tokenizer that fits it."""
    import megatron_ettin.parallel.megatron  # noqa: F401, I001
    from megatron.core.dist_checkpointing import ShardedTensor

    from megatron_ettin.checkpoint.save import save
    from megatron_ettin.checkpoint.state import TrainState
    from megatron_ettin.checkpoint.weights import MAIN_WEIGHT
    from megatron_ettin.config.codec import to_dict
    from megatron_ettin.config.recipes import recipe
    from megatron_ettin.config.run import LayoutConfig
    from megatron_ettin.config.weights import shapes
    from megatron_ettin.model.initialize import initial_tensor
    from megatron_ettin.parallel.groups import initialize
    from megatron_ettin.tokenizer.train import train_tokenizer

    train_tokenizer(iter(["random weights say nothing"]), 300).save(str(folder / "tokenizer.json"))
    config = recipe(size, "mlm", "pretrain")
    keys = {name: MAIN_WEIGHT + name for name in shapes(config.model)}
    tensors = {key: initial_tensor(config.model, 0, name) for name, key in keys.items()}
    shards = {key: ShardedTensor.from_rank_offsets(key, tensor) for key, tensor in tensors.items()}
    numbers = {"reason": "end", "state": TrainState(finished=True).to_dict(), "config": to_dict(config)}
    (folder / "run" / "checkpoints").mkdir(parents=True)
    save(folder / "run", 0, shards, numbers, initialize(LayoutConfig()).data_context.group, lambda: None, 0)


def empty(folder: Path, size: str) -> None:
    """Import what convert imports and prepare the device."""
    import numpy as np  # noqa: F401

    import megatron_ettin.export.runs  # noqa: F401
    from megatron_ettin.config.run import LayoutConfig
    from megatron_ettin.export.parity import import_models
    from megatron_ettin.parallel.groups import initialize

    import_models()
    initialize(LayoutConfig())


def convert(folder: Path, size: str) -> None:
    """Convert the run."""
    from megatron_ettin.cli import main

    status = main(["convert", str(folder / "run"), str(folder / "out"), "--tokenizer", str(folder / "tokenizer.json")])
    if status:
        raise SystemExit(status)


def in_child(part: str, folder: Path, size: str) -> int:
    """Peak bytes of a process that does one part."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--size", size]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stdout}{done.stderr}")
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="150m")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=("make", "empty", "convert"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part:
        {"make": make, "empty": empty, "convert": convert}[flags.part](flags.folder, flags.size)
        print(json.dumps({"peak": peak()}))
        return
    from benchmarks.reporting import claim, show
    from megatron_ettin.config.recipes import recipe
    from megatron_ettin.config.weights import shapes

    weights = 4 * sum(map(math.prod, shapes(recipe(flags.size, "mlm", "pretrain").model).values()))
    with tempfile.TemporaryDirectory(prefix="ettin-convert-") as temporary:
        folder = Path(temporary)
        in_child("make", folder, flags.size)
        started = time.monotonic()
        above = in_child("convert", folder, flags.size) - in_child("empty", folder, flags.size)
        seconds = time.monotonic() - started
    note = f"{above / MIB:,.0f} MiB above an empty process, weights {weights / MIB:,.0f} MiB, {seconds:.0f} s"
    name = f"peak memory of ettin convert, {flags.size}"
    show([claim(name, above / weights, None, "x fp32 weights", TARGET, lower_is_better=True, note=note)], flags.json)


if __name__ == "__main__":
    main()
