#!/usr/bin/env python3
"""What a training step of the 17M pair on a CPU needs: peak memory against transformers, and ranks against threads.

    python benchmarks/train_resources.py [--quick] [--json FILE]

Peak memory is the largest resident set of a fresh process over three steps, imports included on both sides; the peers
are compiled, in bf16 with fp32 weights under autocast, ours with bf16 weights and fp32 main weights. Ours holds at most
32 MiB of logits and computes layers again in the backward pass, and its speed is that of this setting, in CPU time.
Two data-parallel ranks of one thread each and one process with two threads train the same four rows a step; tokens/s of
wall time.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import Claim, claim, require, show

require("torch", "transformers", "megatron.core", install="pip install .")

import torch  # noqa: E402

from benchmarks.train_step_sides import Ours, Peer, Work  # noqa: E402
from megatron_ettin.config.run import LayoutConfig  # noqa: E402
from megatron_ettin.parallel.groups import initialize  # noqa: E402

CHUNK = 32 << 20
"""Bytes of logits that ours holds at once."""
MEMORY_SHARE, SPEED, RANKS = 0.45, 1.1, 0.9
"""Targets: peak memory and speed against the compiled peer, and two ranks against two threads."""
STEPS = 3


def work_of(objective: str, precision: str, rows: int) -> Work:
    """Rows of 1,024 tokens, one piece each."""
    return Work(objective=objective, precision=precision, row_length=1024, rows=rows, pieces=(1024,))


def side(name: str, work: Work) -> Ours | Peer:
    """One side, as its process starts it."""
    groups = initialize(LayoutConfig())
    ours = Ours(work, groups, loss_chunk_bytes=CHUNK, recompute="full")
    if name == "ours":
        return ours
    weights = ours.weights()
    del ours
    gc.collect()
    return Peer(work, weights, compile=True)


def probe(name: str, precision: str) -> dict[str, float]:
    """Least CPU seconds of a step after the first, peak memory in MiB, and the first loss: of this process."""
    trained = side(name, work_of("clm", precision, 2))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    losses, seconds = [], []
    for _ in range(STEPS):
        started = time.process_time()
        losses.append(trained.step())
        seconds.append(time.process_time() - started)
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return {"seconds": min(seconds[1:]), "megabytes": int(found[1]) / 1024, "loss": losses[0]}


def wall(threads: int, steps: int) -> dict[str, float]:
    """Least wall seconds of a step of four rows, shared by the ranks that torchrun started."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    groups = initialize(LayoutConfig())
    torch.set_num_threads(threads)
    ours, seconds = Ours(work_of("mlm", "fp32", 4 // ranks), groups), []
    for _ in range(steps):
        started = time.perf_counter()
        ours.step()
        seconds.append(time.perf_counter() - started)
    return {"seconds": min(seconds[1:])}


def child(*arguments: str, ranks: int = 1, threads: int = 1) -> dict[str, float]:
    """What a fresh process, or the first of several ranks, prints."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*(launch if ranks > 1 else [sys.executable]), str(Path(__file__)), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][0])
    return result


def memory_claims(precision: str, rounds: int) -> list[Claim]:
    """Peak memory of both sides, and the speed at it: fresh processes in turn."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for name, results in found.items():
            results.append(child("--probe", name, "--precision", precision))
    ours, peer = found["ours"], found["peer"]
    if abs(ours[0]["loss"] - peer[0]["loss"]) > (2e-6 if precision == "fp32" else 5e-3) * peer[0]["loss"]:
        raise SystemExit(f"{precision}: our loss is {ours[0]['loss']}, the peer's {peer[0]['loss']}")
    memory = [min(result["megabytes"] for result in results) for results in (ours, peer)]
    rates = [2048 / min(result["seconds"] for result in results) for results in (ours, peer)]
    return [
        claim(
            f"step CLM {precision}, at least memory: peak", *memory, "MiB", MEMORY_SHARE * memory[1],
            lower_is_better=True, peer_name="transformers + compile", note=f"{memory[0] / memory[1]:.0%} of the peer's",
        ),
        claim(
            f"step CLM {precision}, at least memory: speed", *rates, "tokens/s of CPU time", SPEED * rates[1],
            peer_name="transformers + compile",
        ),
    ]  # fmt: skip


def ranks_claim(rounds: int) -> Claim:
    """Two ranks of one thread against one process of two."""
    ranks, threads = [], []
    for _ in range(rounds):
        ranks.append(child("--wall", "1", ranks=2)["seconds"])
        threads.append(child("--wall", "2", threads=2)["seconds"])
    rates = 4096 / min(ranks), 4096 / min(threads)
    return claim(
        "two data-parallel ranks, MLM fp32", *rates, "tokens/s of wall time", RANKS * rates[1],
        peer_name="one process, two threads",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; with --probe or --wall, be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fp32 and one round, about a minute")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--wall", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.probe or options.wall:
        torch.set_num_threads(1)
        result = probe(options.probe, options.precision) if options.probe else wall(options.wall, 6)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result))
        return 0
    rounds = 1 if options.quick else 2
    claims = [row for kind in (("fp32",) if options.quick else ("fp32", "bf16")) for row in memory_claims(kind, rounds)]
    show([*claims, ranks_claim(rounds + 2)], options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
