#!/usr/bin/env python3
"""A training step of the 17M pair on a CPU against transformers: losses compared first, then CPU time in turn.

Ours is the whole step of `pretrain`: Megatron-Core's schedule, gradient buffers, distributed optimizer, StableAdamW;
in bf16 with bf16 weights, fp32 main weights and fp32 gradients. The peers have fp32 weights, autocast for bf16, and
torch's fused AdamW. Both sides run in one process with the same settings; `--mkl` takes oneDNN's fp32 products from
both, `pretrain` uses them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import Claim, claim, require, show

require("torch", "transformers", "megatron.core", install="pip install .")

import torch  # noqa: E402

from benchmarks.train_step_sides import Ours, Peer, Work  # noqa: E402
from megatron_ettin.config.run import LayoutConfig  # noqa: E402
from megatron_ettin.model.attention.native import attend  # noqa: E402
from megatron_ettin.model.device_batch import DeviceBatch  # noqa: E402
from megatron_ettin.model.pattern import Reach  # noqa: E402
from megatron_ettin.parallel.groups import Groups, initialize  # noqa: E402

SAME_LOSS = {"fp32": 2e-6, "bf16": 5e-3}
"""Relative difference of the first loss that is rounding."""
MIXED_STEP = 1.03
"""The most time that rows of both kinds may take, of the time of masked rows with as many labels."""
LOCAL = Reach(left=64, right=64)


@dataclass(frozen=True)
class Row:
    """One comparison: a workload, what our side and the peer are set to, and the target."""

    name: str
    work: Work
    peer: dict[str, Any]
    target: float
    ours: dict[str, Any]
    quick: bool = False


def step_work(objective: str, precision: str) -> Work:
    """Two rows of 1,024 tokens, one piece each."""
    return Work(objective=objective, precision=precision, row_length=1024, rows=2, pieces=(1024,))


def long_work(precision: str) -> Work:
    """One row of 8,192 tokens."""
    return Work(objective="mlm", precision=precision, row_length=8192, rows=1, pieces=(8192,))


def half_padding(precision: str) -> Work:
    """Eight pieces of 128 to 1,024 tokens: one a padded row leaves half of it empty."""
    pieces = (1024, 768, 640, 512, 448, 384, 192, 128)
    return Work(objective="mlm", precision=precision, row_length=sum(pieces), rows=1, pieces=pieces)


def rows(compile_peer: bool) -> list[Row]:
    """All comparisons; those with a compiled peer take half a minute more each."""
    chunked = {"loss_chunk_bytes": 32 << 20}
    found = []
    for precision, default, best, causal in (("fp32", 3.5, 1.5, 1.4), ("bf16", 4.0, 1.5, 1.4)):
        mlm, clm = step_work("mlm", precision), step_work("clm", precision)
        found.append(Row(f"step MLM {precision}", mlm, {}, default, {}, quick=True))
        found.append(Row(f"step MLM {precision}, peer sparse", mlm, {"sparse": True}, 0.0, {}))
        found.append(Row(f"step CLM {precision}", clm, {}, 0.0, {}))
        found.append(Row(f"step CLM {precision}, logits in chunks", clm, {}, 0.0, chunked))
        found.append(Row(f"step MLM 8,192 {precision}", long_work(precision), {"sparse": True}, 3.0, {}))
        found.append(Row(f"packed against padded {precision}", half_padding(precision), {"sparse": True}, 3.5, {}))
        if compile_peer:
            sparse = {"sparse": True, "compile": True}
            found.append(Row(f"step MLM {precision}, peer sparse + compile", mlm, sparse, best, {}))
            found.append(Row(f"step CLM {precision}, peer compile", clm, {"compile": True}, causal, {}))
    return found


def measured(row: Row, groups: Groups, rounds: int) -> Claim:
    """Compare the losses, then time both sides in turn; the least CPU time of each counts."""
    ours = Ours(row.work, groups, **row.ours)
    peer = Peer(row.work, ours.weights(), **row.peer)
    losses = ours.step(), peer.step()
    if abs(losses[0] - losses[1]) > SAME_LOSS[row.work.precision] * losses[1]:
        raise SystemExit(f"{row.name}: our loss is {losses[0]}, the peer's {losses[1]}")
    seconds = least({"ours": ours.step, "peer": peer.step}, rounds)
    tokens = {side: row.work.tokens / value for side, value in seconds.items()}
    setting = " + ".join(["transformers", *row.peer])
    return claim(
        row.name, tokens["ours"], tokens["peer"], "tokens/s of CPU time", peer_name=setting,
        note=f"target {row.target}x {'met' if tokens['ours'] / tokens['peer'] >= row.target else 'missed'}"
        if row.target else "",
    )  # fmt: skip


def least(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least CPU seconds of each job, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            times[name].append(time.process_time() - started)
    return {name: min(values) for name, values in times.items()}


def local_layer(groups: Groups, tokens: int, rounds: int) -> Claim:
    """One local layer's attention, forward and backward, against torch's with a mask of all pairs."""
    work = Work(objective="mlm", precision="fp32", row_length=tokens, rows=1, pieces=(tokens,))
    from benchmarks.train_step_sides import batch_of

    packed = DeviceBatch.from_batch(batch_of(work), groups).packed
    qkv = torch.randn(tokens, 4, 3, 64, requires_grad=True)
    index = torch.arange(tokens)
    mask = (index[None] - index[:, None]).abs() <= 64

    def ours() -> torch.Tensor:
        return attend(qkv * 1.0, LOCAL, packed, None)

    def peer() -> torch.Tensor:
        query, key, value = ((qkv * 1.0)[:, :, part].transpose(0, 1)[None] for part in range(3))
        dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return dense[0].transpose(0, 1)

    if float((ours() - peer()).detach().abs().max()) > 1e-5:
        raise SystemExit("the local layers differ")
    seconds = least({"ours": lambda: ours().sum().backward(), "peer": lambda: peer().sum().backward()}, rounds)
    target = 3.5 if tokens == 1024 else 30.0
    verdict = "met" if seconds["peer"] / seconds["ours"] >= target else "missed"
    return claim(
        f"one local layer, {tokens:,} tokens", 1e3 * seconds["ours"], 1e3 * seconds["peer"], "ms of CPU time",
        lower_is_better=True, peer_name="dense-mask SDPA", note=f"target {target}x {verdict}",
    )  # fmt: skip


def mixed_step(groups: Groups, precision: str, rounds: int) -> Claim:
    """Our step on rows of both kinds, one of four of next tokens, against that on masked rows with as many labels."""
    length = 512
    sides = {
        objective: Ours(
            Work(objective=objective, precision=precision, row_length=length, rows=4, pieces=(length,)), groups
        )
        for objective in ("mixed", "mlm")
    }
    labels = {side.batch.labels for side in sides.values()}
    if len(labels) > 1:
        raise SystemExit(f"the sides have {labels} labels")
    seconds = least({objective: side.step for objective, side in sides.items()}, rounds)
    verdict = "met" if seconds["mixed"] <= MIXED_STEP * seconds["mlm"] else "missed"
    return claim(
        f"step mixed {precision}, equal labels", 1e3 * seconds["mixed"], 1e3 * seconds["mlm"], "ms of CPU time",
        lower_is_better=True, peer_name="our step MLM", note=f"target {1 / MIXED_STEP:.2f}x {verdict}",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two comparisons, a few rounds")
    parser.add_argument("--only", default="", help="only comparisons whose name contains this")
    parser.add_argument("--compile-peer", action="store_true", help="also the peers under torch.compile")
    parser.add_argument("--mkl", action="store_true", help="fp32 products by MKL on both sides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    groups = initialize(LayoutConfig())
    torch.set_num_threads(options.threads)
    if options.mkl:
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    rounds = 3 if options.quick else options.rounds
    wanted = [row for row in rows(options.compile_peer) if row.quick or not options.quick]
    chosen = [row for row in wanted if options.only in row.name]
    claims = []
    for number, row in enumerate(chosen, start=1):
        claims.append(measured(row, groups, rounds))
        print(f"[{number}/{len(chosen)}] {row.name}: {claims[-1].ratio:.2f}", file=sys.stderr, flush=True)
    claims += [local_layer(groups, tokens, rounds) for tokens in (1024, 8192) if options.only in "one local layer"]
    claims += [
        mixed_step(groups, precision, rounds)
        for precision in ("fp32", "bf16")
        if options.only in f"step mixed {precision}, equal labels" and not options.quick
    ]
    show(claims, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
