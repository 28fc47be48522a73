"""One forward and backward pass of a case through Megatron-Core's schedules, without an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.config.run import RunConfig
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from tests.layouts.cases import ROWS, Case
from tests.layouts.mutations import seeded
from tests.layouts.rows import batch_of


def compare(case: Case, groups: Groups) -> dict[str, Tensor]:
    """Initial weights, loss and every gradient of one step, gathered."""
    config = case.config()
    models = build_model(config, groups)
    named = {f"initial/{name}": tensor for name, tensor in full_state(models, groups).items()}
    chunks = wrapped(models, config, groups)
    with seeded(case.mutation):
        loss, count = one_pass(chunks, config, groups)
    gather_shards(chunks)
    gradients = full_state(chunks, groups, what="gradients")
    named |= {f"gradient/{name}": tensor for name, tensor in gradients.items()}
    named["loss"], named["count"] = loss, count
    named["norm"] = torch.stack([tensor.double().norm() for tensor in gradients.values()]).norm()
    return named


def wrapped(models: list[Any], config: RunConfig, groups: Groups) -> list[DistributedDataParallel]:
    """The models in Megatron-Core's data-parallel wrapper with sharded fp32 gradients."""
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=True, overlap_grad_reduce=config.layout.overlap
    )
    chunks = [
        DistributedDataParallel(
            get_model_config(model), settings, model, disable_bucketing=index > 0, pg_collection=groups.collection
        )
        for index, model in enumerate(models)
    ]
    megatron = get_model_config(models[0])
    megatron.finalize_model_grads_func = partial(finalize_model_grads)
    if config.layout.overlap:
        functions = [chunk.no_sync for chunk in chunks]
        megatron.no_sync_func = functions[0] if len(functions) == 1 else functions
    return chunks


def one_pass(chunks: list[DistributedDataParallel], config: RunConfig, groups: Groups) -> tuple[Tensor, Tensor]:
    """Run the schedule over this data rank's rows; the sum of all losses and the number of labels, on every rank."""
    share = ROWS // groups.data.size
    first = groups.data.rank * share
    size = config.layout.micro_batch_rows
    batches = [batch_of(config, range(row, row + size)) for row in range(first, first + share, size)]
    for chunk in chunks:
        chunk.zero_grad_buffer()
    pipeline = groups.pipeline.size
    run = get_forward_backward_func(pipeline, len(chunks) if len(chunks) > 1 else None)
    sums = run(
        forward_step_func=partial(_forward, groups),
        data_iterator=[iter(batches) for _ in chunks],
        model=chunks,
        num_microbatches=len(batches),
        seq_length=batches[0].rows * batches[0].row_length,
        micro_batch_size=1,
        forward_only=False,
    )
    total = torch.stack(sums).sum(0) if sums else torch.zeros(2, dtype=torch.float64)
    dist.all_reduce(total)
    total /= groups.tensor.size
    return total[0], total[1]


def _forward(groups: Groups, batches: Iterator[Batch], model: Any) -> tuple[Tensor, Any]:
    batch = DeviceBatch.from_batch(next(batches), groups)
    return model(batch), _sums


def _sums(loss_L: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.tensor(loss_L.numel(), dtype=torch.int)
    return loss_L.sum(), count, torch.stack([loss_L.detach().sum().double(), count.double()])


def gather_shards(chunks: list[DistributedDataParallel]) -> None:
    """Fill every rank's gradient buffers with the reduced shards of the other data ranks."""
    for chunk in chunks:
        for buffer in chunk.buffers:
            for bucket in buffer.buckets:
                group = buffer.data_parallel_group
                shard = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, shard, group=group)
