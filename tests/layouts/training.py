"""A few training steps of a case, and everything that must not depend on its layout."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from megatron_ettin.batch import empty_batch
from megatron_ettin.config.derived import with_world_size
from megatron_ettin.config.sharing import empty_shape, sharing_at
from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import Parts, build_parts
from megatron_ettin.train.step import Asks, StepResult, held_out_sums, train_step
from tests.layouts.cases import RATE, STEPS, Case
from tests.layouts.mutations import seeded
from tests.layouts.rows import batch_of

HELD_OUT = range(2, 4)
"""Rows of an evaluation, a micro-batch each: three data ranks have too few, and interleaved stages no whole rounds."""


def compare(case: Case, groups: Groups) -> dict[str, Tensor]:
    """Initial weights, the first step's loss, gradients and norm, weights and held-out loss after all."""
    parts = build_parts(with_world_size(case.config(), groups.world.size), groups, sources=1)
    named = prefixed("initial", full_state(parts.chunks, groups))
    losses = []
    with seeded(case.mutation):
        for step in range(STEPS):
            result = one_step(parts, case.rows, step)
            losses.append(result.totals.loss)
            if step == 0:
                gather_shards(parts.chunks)
                named |= prefixed("gradient", full_state(parts.chunks, groups, what="gradients"))
                named["norm"] = torch.tensor(result.totals.gradient_norm, dtype=torch.float64)
                named["labels"] = torch.tensor(result.totals.labels)
                named["flops"] = torch.tensor(result.totals.flops, dtype=torch.float64)
    held_out = [batch_of(parts.config, range(row, row + 1)) for row in HELD_OUT]
    total, count = held_out_sums(parts, held_out)
    named["held_out"] = torch.tensor(total / count, dtype=torch.float64)
    for chunk in parts.chunks:
        chunk.start_param_sync(force_sync=True)
    named |= prefixed("weight", full_state(parts.chunks, groups))
    named["losses"] = torch.tensor(losses, dtype=torch.float64)
    return named


def one_step(parts: Parts, rows: tuple[int, ...], step: int) -> StepResult:
    """One training step on this data rank's slice of the step's rows."""
    config, data, first = parts.config, parts.groups.data, sum(rows[:step])
    shared = sharing_at(config, rows[step])
    assert shared.ranks == data.size
    batches = [
        batch_of(config, range(first + low, first + high), first_row=low) for low, high in shared.bounds(data.rank)
    ]
    empty = empty_batch(*empty_shape(config, shared, data.rank), pad_id=0)
    batches += [empty] * (shared.count(data.rank) - len(batches))
    return train_step(parts, batches, step=step, rate=RATE, asks=Asks())


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix/name`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def gather_shards(chunks: list[DistributedDataParallel]) -> None:
    """Fill every rank's gradient buffers with the reduced shards of the other data ranks."""
    for chunk in chunks:
        for buffer in chunk.buffers:
            for bucket in buffer.buckets:
                group = buffer.data_parallel_group
                shard = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, shard, group=group)
