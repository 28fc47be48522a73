"""Everything a step works with, built once."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import math
from dataclasses import dataclass

from megatron.core.distributed import DistributedDataParallel

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.weights import shapes
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import entries
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.optimizer import ShardedOptimizer, build_optimizer
from megatron_ettin.train.wrap import wrap


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


def build_parts(config: RunConfig, groups: Groups, sources: int, bucket_size: int | None = None) -> Parts:
    """Build model and optimizer with their initial weights. Every rank calls this; ``bucket_size`` as in ``wrap``."""
    models = build_model(config, groups)
    chunks = wrap(models, config.layout, groups, bucket_size=bucket_size)
    whole = shapes(config.model)
    sizes = [math.prod(whole[entry.name]) for entry in entries(models)]
    return Parts(
        config=config,
        chunks=chunks,
        optimizer=build_optimizer(chunks, sizes, config, groups),
        groups=groups,
        sources=sources,
    )
