"""A few training steps of a case, and everything that must not depend on its layout."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import Parts, build_parts
from megatron_ettin.train.step import Asks, StepResult, train_step
from tests.layouts.cases import RATE, ROWS, STEPS, Case
from tests.layouts.mutations import seeded
from tests.layouts.rows import batch_of


def compare(case: Case, groups: Groups) -> dict[str, Tensor]:
    """Initial weights, the first step's loss, gradients and norm, and the weights after all steps, gathered."""
    parts = build_parts(case.config(), groups, sources=1)
    named = prefixed("initial", full_state(parts.chunks, groups))
    losses = []
    with seeded(case.mutation):
        for step in range(STEPS):
            result = one_step(parts, step)
            losses.append(result.totals.loss)
            if step == 0:
                gather_shards(parts.chunks)
                named |= prefixed("gradient", full_state(parts.chunks, groups, what="gradients"))
                named["norm"] = torch.tensor(result.totals.gradient_norm, dtype=torch.float64)
                named["labels"] = torch.tensor(result.totals.labels)
    for chunk in parts.chunks:
        chunk.start_param_sync(force_sync=True)
    named |= prefixed("weight", full_state(parts.chunks, groups))
    named["losses"] = torch.tensor(losses, dtype=torch.float64)
    return named


def one_step(parts: Parts, step: int) -> StepResult:
    """One training step on this data rank's slice of the step's rows."""
    share = ROWS // parts.groups.data.size
    first = step * ROWS + parts.groups.data.rank * share
    size = parts.config.layout.micro_batch_rows
    batches = [batch_of(parts.config, range(row, row + size)) for row in range(first, first + share, size)]
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
