"""Megatron-Core's buckets of gradients, and what a rank needs to store the optimizer's state that is cut along them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from megatron_ettin.config.overlapping import overlaps
from megatron_ettin.config.run import ModelConfig, RunConfig
from megatron_ettin.config.weights import Weight, weights
from megatron_ettin.cost.cuts import parts_of, storing_rank
from megatron_ettin.cost.disk import MAIN_COPY_BYTES, checkpoint_bytes
from megatron_ettin.cost.memory import MOMENT_BYTES
from megatron_ettin.cost.placement import own_layers

LEAST_BUCKET, LEAST_BUCKET_PER_RANK = 40_000_000, 1_000_000
"""Gradients are reduced in buckets of at least so many, and so many for each data rank."""


def buckets(config: RunConfig, ranks: int) -> list[list[int]]:
    """Elements of the weights in each bucket on the first pipeline rank, in the order in which they are filled.

    ``ranks`` share them; without overlap there is a single bucket.
    """
    layout, own = config.layout, set(own_layers(config, 0))
    least = max(LEAST_BUCKET, LEAST_BUCKET_PER_RANK * ranks) if overlaps(config, "cuda") else None
    filled: list[list[int]] = [[]]
    for weight in reversed(_weights(config.model)):
        beyond = not weight.name.startswith("embedding") if weight.layer is None else weight.layer not in own
        if beyond and layout.pipeline > 1:
            continue
        if least is not None and sum(filled[-1]) >= least:
            filled.append([])
        filled[-1].append(prod(weight.shape) // (1 if weight.split == "copied" else layout.tensor))
    return filled


@dataclass(frozen=True)
class SaveMemory:
    """Host memory that the fullest rank needs for a save, in bytes."""

    joined: int
    """Main weights and moments of tensors that lie on several data ranks and that it puts together."""
    copies: int
    """Its share of the copies that ``checkpoint.background`` writes from."""


def save_memory(config: RunConfig) -> SaveMemory:
    """What a save needs on the fullest of the first pipeline stage's ranks; an open data size counts as one rank."""
    layout = config.layout
    ranks = max(1, layout.data) * layout.context
    joined = [0] * ranks
    for sizes in buckets(config, ranks):
        first, share = 0, -(-sum(sizes) // ranks)
        for size in sizes:
            parts = parts_of(first, first + size, share)
            first += size
            if len(parts) > 1:
                joined[storing_rank(parts)] += (MAIN_COPY_BYTES + MOMENT_BYTES) * size
    writers = ranks * layout.tensor * layout.pipeline
    return SaveMemory(max(joined), checkpoint_bytes(config) // writers if config.checkpoint.background else 0)


@cache
def _weights(model: ModelConfig) -> list[Weight]:
    return weights(model)
