#!/usr/bin/env python3
"""``ettin merge-weights`` of four exports: its time beside reading and writing the same files, and its memory.

Exports of random weights are made first. The peer reads the four weight files as bytes, in blocks, and writes as many
bytes as one of them has, flushed to the disk as a merge flushes them. The proof of the logits loads two models; its
time does not belong to joining and is told beside it. Sides take turns; the files are in the page cache for both. Where
others use the machine CPU seconds, which stand in the note, say more than elapsed ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MODELS = 4
TIME_TARGET, MEMORY_TARGET = 1.2, 2.5
MIB = 2**20


def peak() -> int:
    """Peak resident bytes of this process so far, file mappings included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def folders(place: Path) -> list[Path]:
    """The exports."""
    return [place / f"model{number}" for number in range(MODELS)]


def make(place: Path, size: str, method: str) -> dict[str, float]:
    """Exports of a shape with random weights, without a proof of their logits."""
    import torch

    from megatron_ettin.config.objective import OBJECTIVES
    from megatron_ettin.config.recipes import recipe
    from megatron_ettin.config.weights import shapes
    from megatron_ettin.export import Export, write_folder
    from megatron_ettin.tokenizer.train import train_tokenizer

    train_tokenizer(iter(["random weights say nothing"]), 300).save(str(place / "tokenizer.json"))
    model = recipe(size, "mlm", "pretrain").model
    for seed, folder in enumerate(folders(place)):
        folder.mkdir()
        generator = torch.Generator().manual_seed(seed)
        tensors = {name: torch.randn(shape, generator=generator) / 50 for name, shape in shapes(model).items()}
        write_folder(folder, Export(model=model, objective=OBJECTIVES["mlm"], tensors=tensors,
                                    tokenizer_json=place / "tokenizer.json"))  # fmt: skip
    return {}


def read_and_write(place: Path, size: str, method: str) -> dict[str, float]:
    """The peer: every byte is read once, and as many as one file has are written and flushed."""
    paths, block = [folder / "model.safetensors" for folder in folders(place)], bytearray(4 * MIB)
    began, used = time.perf_counter(), time.process_time()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    with (place / "copy").open("wb", buffering=0) as file:
        for _ in range(0, paths[0].stat().st_size, len(block)):
            file.write(block)
        os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}


def merge(place: Path, size: str, method: str) -> dict[str, float]:
    """The merge as the command does it; the proof is timed on its own."""
    import numpy as np  # noqa: F401

    import megatron_ettin.export.published as published
    from megatron_ettin.config.run import LayoutConfig
    from megatron_ettin.derive.merge import merge_weights
    from megatron_ettin.derive.settings import MergeSettings
    from megatron_ettin.export.parity import import_models
    from megatron_ettin.parallel.groups import initialize

    import_models()
    initialize(LayoutConfig())
    models = tuple(str(folder) for folder in folders(place))
    based = {"models": models[1:], "base": models[0]} if method == "ties" else {"models": models}
    empty, joined, proof, proof_cpu = peak(), 0, 0.0, 0.0
    compare = published.compare

    def timed(*arguments: object) -> object:
        nonlocal joined, proof, proof_cpu
        joined, began, used = peak(), time.perf_counter(), time.process_time()
        found = compare(*arguments)
        proof, proof_cpu = time.perf_counter() - began, time.process_time() - used
        return found

    published.compare = timed
    began, used = time.perf_counter(), time.process_time()
    merge_weights(MergeSettings(output=place / "out", method=method, **based), print)
    seconds, cpu = time.perf_counter() - began - proof, time.process_time() - used - proof_cpu
    return {"seconds": seconds, "cpu": cpu, "proof": proof, "joining": joined - empty, "peak": peak() - empty}


PARTS: dict[str, Callable[[Path, str, str], dict[str, float]]] = {
    "make": make, "peer": read_and_write, "merge": merge,
}  # fmt: skip


def in_child(part: str, place: Path, size: str, method: str) -> dict[str, float]:
    """What a process says that does one part."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(place), "--size", size, "--method", method]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="150m")
    parser.add_argument("--method", default="mean", choices=("mean", "ties"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of the 17m shape")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part:
        print(json.dumps(PARTS[flags.part](flags.folder, flags.size, flags.method)))
        return
    import shutil
    import statistics

    from benchmarks.reporting import claim, show

    size, rounds = ("17m", 1) if flags.quick else (flags.size, flags.rounds)
    with tempfile.TemporaryDirectory(prefix="ettin-merge-") as temporary:
        place = Path(temporary)
        in_child("make", place, size, flags.method)
        weights = (place / "model0" / "model.safetensors").stat().st_size
        peer, ours = [], []
        for _ in range(rounds):
            peer.append(in_child("peer", place, size, flags.method))
            ours.append(in_child("merge", place, size, flags.method))
            shutil.rmtree(place / "out")
    seconds, other = (statistics.median(found["seconds"] for found in side) for side in (ours, peer))
    joining, most = (max(found[name] for found in ours) for name in ("joining", "peak"))
    proof = statistics.median(found["proof"] for found in ours)
    name = f"{flags.method} of {MODELS} exports, {size}"
    work, other_work = (statistics.median(found["cpu"] for found in side) for side in (ours, peer))
    note = (
        f"{seconds:.2f} s against {other:.2f} s; CPU {work:.2f} s against {other_work:.2f} s; the proof of the logits "
        f"takes another {proof:.0f} s"
    )
    memory = f"above an empty process; joining alone {joining / MIB:,.0f} MiB, one model {weights / MIB:,.0f} MiB"
    show([
        claim(f"time of the {name}", seconds / other, None, "x", TIME_TARGET, lower_is_better=True,
              peer_name="reading four files and writing one", note=note),
        claim(f"peak memory of the {name}", most / weights, None, "x one model", MEMORY_TARGET, lower_is_better=True,
              note=memory),
    ], flags.json)  # fmt: skip


if __name__ == "__main__":
    main()
