"""The tensors of a checkpoint, as a single data rank describes them and as Megatron-Core does."""

from __future__ import annotations

import pytest
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import apply_factories

from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.train.optimizer import ShardedOptimizer
from megatron_ettin.train.store import describe
from tests.checkpoint.layouts_round_trip import build


def described(parts):
    """(key, offset) -> shard, in order, and what else there is."""
    found = describe(parts)
    rest = {name: value for name, value in found["optimizer"].items() if name != "param_state"}
    apply_factories(found)
    return {(s.key, s.global_offset): s for s in nested_values(found) if not isinstance(s, str)}, rest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_single_data_rank_describes_without_copies_what_megatron_gathers(precision, monkeypatch):
    initialize(LayoutConfig())
    parts = build(LayoutConfig(), precision)
    parts.optimizer.optimizer.prepare_state()
    states = list(parts.optimizer.optimizer.state.values())
    for state in states:
        state["exp_avg"].normal_()
        state["exp_avg_sq"].uniform_()
    ours, rest = described(parts)
    held = {tensor.data_ptr() for state in states for tensor in state.values() if isinstance(tensor, torch.Tensor)}
    assert held <= {shard.data.data_ptr() for shard in ours.values()}, "nothing was copied"
    monkeypatch.delattr(ShardedOptimizer, "sharded_state_dict")
    theirs, their_rest = described(parts)
    assert list(ours) == list(theirs) and rest == their_rest
    for key, shard in ours.items():
        other = theirs[key]
        assert torch.equal(shard.data, other.data) and shard.dtype == other.dtype, key
        assert (shard.replica_id, shard.global_shape) == (other.replica_id, other.global_shape), key
