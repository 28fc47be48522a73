"""A model's weights as Megatron-Core's sharded tensors, by canonical names: what checkpoints are made of."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from collections.abc import Sequence

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from torch import Tensor

from megatron_ettin.model.canonical import Entry, entries
from megatron_ettin.parallel.groups import Groups

NamedShards = dict[str, ShardedTensor | ShardedTensorFactory]
"""Megatron-Core's description of this rank's part of each tensor, by canonical name."""

_SPLIT_AXIS = {"columns": 1, "heads": 0, "halves": 0, "vocabulary": 0}
"""The axis that the tensor ranks share, for each kind of sharding in ``model.canonical``."""


def named_shards(models: Sequence[torch.nn.Module], groups: Groups) -> NamedShards:
    """This rank's parameters, described.

    Rows of a QKV matrix stay in Megatron-Core's order, head by head; the rest is as in ``model.canonical``. Padding
    rows of the vocabulary are stored, and may differ in number when read.
    """
    last_copy = groups.pipeline.size > 1 and groups.is_last_stage
    return {
        entry.name: _described(entry, groups, copy=int(last_copy and entry.name == "embedding.weight"))
        for entry in entries(list(models))
    }


def _described(entry: Entry, groups: Groups, copy: int) -> ShardedTensor | ShardedTensorFactory:
    """One parameter; ``copy`` 1 is the tied embedding's second home, on the last pipeline stage."""
    tensor, split = groups.tensor, entry.sharding in _SPLIT_AXIS
    offsets = [(_SPLIT_AXIS[entry.sharding], tensor.rank, tensor.size)] if split else []
    described = ShardedTensor.from_rank_offsets(
        f"weight.{entry.name}",
        entry.parameter,
        *offsets,
        replica_id=(copy, 0 if split else tensor.rank, groups.data_context.rank),
        allow_shape_mismatch=entry.sharding == "vocabulary",
    )
    return apply_swiglu_sharded_factory(described, ()) if entry.sharding == "halves" else described


@torch.no_grad()
def take_over(models: Sequence[torch.nn.Module], loaded: dict[str, Tensor]) -> None:
    """Copy loaded tensors into the parameters that ``named_shards`` described."""
    for entry in entries(list(models)):
        entry.parameter.copy_(loaded[entry.name])
