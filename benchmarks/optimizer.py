#!/usr/bin/env python3
"""StableAdamW against torch's fused AdamW: one step over the tensors of the 17M model, on this machine's CPU."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.config.weights import shapes
from megatron_ettin.train.stable_adamw import StableAdamW

BETAS, EPSILON, RATE, DECAY = (0.9, 0.98), 1e-6, 3e-3, 3e-4
TARGET = 2.0


def parameters(size: str) -> list[torch.nn.Parameter]:
    """Tensors of the model's shapes, with gradients, all in one buffer as in training."""
    sizes = list(shapes(SHAPES[size]).values())
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in sizes]
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=generator)
    return tensors


def ours(size: str) -> tuple[list[torch.nn.Parameter], Callable[[], object]]:
    """StableAdamW's step."""
    tensors = parameters(size)
    groups = [{"params": tensors, "weight_decay": DECAY}]
    return tensors, StableAdamW(groups, betas=BETAS, epsilon=EPSILON, peak_rate=RATE).step


def peer(size: str) -> tuple[list[torch.nn.Parameter], Callable[[], object]]:
    """torch's fused AdamW's step: without the clipping of updates, so with less to do."""
    tensors = parameters(size)
    options = {"betas": BETAS, "eps": EPSILON, "weight_decay": DECAY, "fused": True}
    return tensors, torch.optim.AdamW(tensors, lr=RATE, **options).step


def check_formula(tensors: list[torch.nn.Parameter], size: str) -> None:
    """The first step of StableAdamW on one matrix, against the formula in float64."""
    before = parameters(size)[2]
    p, g = before.detach().double(), before.grad.double()
    a = RATE / max(1.0, float((g * g / (g * g).clamp(min=EPSILON**2)).mean().sqrt()))
    expected = p * (1 - a / RATE * DECAY) - a * g / (g.abs() + EPSILON)
    error = (tensors[2].detach().double() - expected).abs().max().item()
    if error > 1e-4 * RATE + 1e-6 * expected.abs().max().item():
        raise SystemExit(f"StableAdamW differs from its formula by {error}")


def interleaved(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each step, one after the other in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, help="append the result to this file")
    parser.add_argument("--size", default="17m", choices=[name for name in SHAPES if name != "tiny"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    (tensors, step), (_, peer_step) = ours(options.size), peer(options.size)
    step()
    check_formula(tensors, options.size)
    peer_step()
    milliseconds = interleaved({"ours": step, "peer": peer_step}, 10 if options.quick else 60)
    ratio = milliseconds["ours"] / milliseconds["peer"]
    result = {
        "claim": f"StableAdamW step, {options.size}, {options.threads} thread(s), CPU time",
        "ours": round(milliseconds["ours"], 3),
        "peer": round(milliseconds["peer"], 3),
        "unit": "ms",
        "ratio": round(ratio, 3),
        "target": f"<= {TARGET}",
        "met": ratio <= TARGET,
        "hardware": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
    }
    print(f"{'':12}{'StableAdamW':>14}{'fused AdamW':>14}{'ratio':>8}")
    print(f"{'ms a step':12}{result['ours']:14.2f}{result['peer']:14.2f}{ratio:8.2f}")
    line = json.dumps(result)
    print(line)
    if options.json:
        with options.json.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
