"""Everything a step works with, built once: model chunks wrapped for data parallelism, and their optimizer."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed import finalize_model_grads as reduce_gradients
from megatron.core.enums import ModelType
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.utils import get_model_config

from megatron_ettin.config.freezing import frozen_weights
from megatron_ettin.config.overlapping import overlaps
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.weights import shapes
from megatron_ettin.kernels.products import fills_buffers
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import canonical_parameters
from megatron_ettin.model.layer import OwnProducts
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.optimizer import ShardedOptimizer, build_optimizer


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The model chunks of this rank, their optimizer and their place among the ranks."""

    config: RunConfig
    """The run."""
    chunks: list[DistributedDataParallel]
    """This rank's model chunks, wrapped; one unless the pipeline is interleaved."""
    optimizer: ShardedOptimizer
    """Updates the weights of the chunks."""
    groups: Groups
    """Which ranks share what."""
    sources: int
    """Sources of the data mixture."""


def build_parts(
    config: RunConfig, groups: Groups, sources: int, bucket_size: int | None = None, *, initial: bool = True
) -> Parts:
    """Build model and optimizer with their initial weights. Every rank calls this; ``bucket_size`` as in ``wrap``.

    Without ``initial`` all weights are 0, for a caller who sets them: at 150M parameters drawing them takes some ten
    seconds of a core.
    """
    models = build_model(config, groups, initial=initial)
    if not initial:
        with torch.no_grad():
            for parameter in (parameter for model in models for parameter in model.parameters()):
                parameter.zero_()
    chunks = wrap(models, groups, overlap=overlaps(config, groups.device.kind), bucket_size=bucket_size)
    whole = shapes(config.model)
    sizes = [math.prod(whole[entry.name]) for entry in canonical_parameters(models)]
    stay = frozen_weights(config.model, config.optimizer.freeze)
    frozen = [entry.parameter for entry in canonical_parameters(models) if entry.name in stay]
    return Parts(
        config=config,
        chunks=chunks,
        optimizer=build_optimizer(chunks, sizes, config, groups, frozen),
        groups=groups,
        sources=sources,
    )


def wrap(
    models: Sequence[torch.nn.Module], groups: Groups, *, overlap: bool, bucket_size: int | None = None
) -> list[DistributedDataParallel]:
    """The chunks with contiguous float32 gradient buffers, and their configs told how a backward pass ends.

    With ``overlap`` a bucket of ``bucket_size`` elements goes out as soon as it is full; None: Megatron-Core's choice.
    """
    for model in models:
        model.model_type = ModelType.encoder_or_decoder  # what the schedules look for
    chunks = [
        DistributedDataParallel(
            get_model_config(model),
            DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                use_distributed_optimizer=True,
                overlap_grad_reduce=overlap,
                overlap_param_gather=overlap,
                bucket_size=bucket_size,
            ),
            model,
            disable_bucketing=index > 0,
            pg_collection=groups.collection,
        )
        for index, model in enumerate(models)
    ]
    if fills_buffers(groups.device.torch_device):
        # The linear layers add their weights' gradients to the buffers themselves: no copy in between.
        for module in (module for chunk in chunks for module in chunk.modules()):
            if isinstance(module, OwnProducts):
                module.gradient_accumulation_fusion = True
    if groups.device.kind == "cpu" and groups.collection.dp_cp.size() == 1 and not overlap:
        _send_nothing(chunks)
    config = get_model_config(chunks[0])
    config.finalize_model_grads_func = finish_backward
    no_sync = [chunk.no_sync for chunk in chunks]
    config.no_sync_func = None if not overlap else no_sync[0] if len(no_sync) == 1 else no_sync
    return chunks


def _send_nothing(chunks: list[DistributedDataParallel]) -> None:
    """Of a single data rank: gloo would copy all gradients and all weights to arrive at the same numbers."""
    for chunk in chunks:
        for buckets in chunk.bucket_groups:
            if any(bucket.gradient_scaling_factor != 1.0 for bucket in buckets.buckets):
                raise RuntimeError("gradients are sums over labels and must not be scaled before they are reduced")
            buckets.start_grad_sync = buckets.start_param_sync = lambda *_, **__: None


def finish_backward(
    chunks: list[DistributedDataParallel],
    labels: torch.Tensor,
    pg_collection: ProcessGroupCollection,
    force_all_reduce: bool = False,
) -> None:
    """Reduce the gradients over the ranks and divide them by the number of labels in the whole step.

    Megatron-Core's own function does the same but waits for the device to compare the count with 0.
    """
    reduce_gradients(chunks, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)
    pipeline = pg_collection.pp
    if pipeline.size() > 1:
        last = torch.distributed.get_global_rank(pipeline, pipeline.size() - 1)
        torch.distributed.broadcast(labels, src=last, group=pipeline)
    if pg_collection.dp_cp.size() > 1:
        torch.distributed.all_reduce(labels, group=pg_collection.dp_cp)
    scale = 1.0 / labels.clamp(min=1)
    for chunk in chunks:
        chunk.scale_gradients(scale)
