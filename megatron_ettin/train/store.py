"""Between the parts of a run and its checkpoints."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory

from megatron_ettin.checkpoint.background import BackgroundSave, HostCopies
from megatron_ettin.checkpoint.retention import Reason, thin_out
from megatron_ettin.checkpoint.save import save
from megatron_ettin.checkpoint.shards import Shards, read_shards
from megatron_ettin.checkpoint.standing import stored_run
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config import codec
from megatron_ettin.config.compatible import refuse_other_shape
from megatron_ettin.cost.disk import checkpoint_bytes
from megatron_ettin.model.canonical import canonical_parameters
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.parallel.together import everywhere_own, on_first
from megatron_ettin.run_folder import SHARDS, Checkpoint
from megatron_ettin.tokenizer.identity import TokenizerIdentity
from megatron_ettin.train.parts import Parts

NamedShards = dict[str, ShardedTensor | ShardedTensorFactory]
"""Megatron-Core's description of this rank's part of each tensor, by canonical name."""

DROPOUT = "row"
"""What the bits of dropout are functions of, as a checkpoint notes it: the row of the step, whatever the layout."""
_SPLIT_AXIS = {"columns": 1, "heads": 0, "halves": 0, "vocabulary": 0}
"""The axis that the tensor ranks share, for each kind of sharding in ``model.canonical``."""


def describe(parts: Parts, *, loading: bool = False) -> Shards:
    """The tensors of a run, by names that do not depend on the layout: weights, main weights and moments."""
    metadata = {  # what Megatron-Core's optimizer must know to describe its tensors
        "distrib_optim_sharding_type": "fully_reshardable",
        "non_homogeneous_layers": True,
        "dp_cp_group": parts.groups.data_context.group,
        "chained_optim_avoid_prefix": True,
    }
    weights = named_shards(parts.chunks, parts.groups)
    optimizer = parts.optimizer.sharded_state_dict(weights, is_loading=loading, metadata=metadata)
    return {"weights": weights, "optimizer": optimizer}


def save_run(
    parts: Parts,
    run: Path,
    state: TrainState,
    reason: Reason,
    data_fingerprint: str,
    still_owned: Callable[[], None] = lambda: None,
    tokenizer: TokenizerIdentity | None = None,
) -> Checkpoint:
    """Write a checkpoint of ``state``, trained with ``tokenizer``, and thin out older ones. Every rank calls this.

    ``still_owned`` raises OwnershipError, on the first rank, when the run was taken over; then nothing is published.
    """
    checkpoint = save(
        run, state.step, *settled(parts, state, reason, data_fingerprint, tokenizer),
        parts.groups.data_context.group, still_owned, checkpoint_bytes(parts.config),
    )  # fmt: skip
    on_first(lambda: thin_out(run, parts.config.checkpoint.keep))
    return checkpoint


def begin_save(
    parts: Parts,
    run: Path,
    state: TrainState,
    reason: Reason,
    data_fingerprint: str,
    copies: HostCopies,
    still_owned: Callable[[], None] = lambda: None,
    tokenizer: TokenizerIdentity | None = None,
) -> BackgroundSave:
    """As ``save_run``, written by a thread from ``copies`` while the training goes on. Every rank calls this."""
    return BackgroundSave(
        run, state.step, *settled(parts, state, reason, data_fingerprint, tokenizer),
        parts.groups.data_context.group, copies, still_owned, checkpoint_bytes(parts.config),
        published=partial(thin_out, run, parts.config.checkpoint.keep),
    )  # fmt: skip


def settled(
    parts: Parts, state: TrainState, reason: Reason, data_fingerprint: str, tokenizer: TokenizerIdentity | None
) -> tuple[Shards, dict[str, Any]]:
    """The tensors of a run as all ranks have them, and what is stored beside them."""
    for chunk in parts.chunks:
        chunk.start_param_sync(force_sync=True)
    return describe(parts), {
        "reason": reason,
        "state": state.to_dict(),
        "config": codec.to_dict(parts.config),
        "fingerprint": codec.fingerprint(parts.config),
        "data": data_fingerprint,
        **({"tokenizer": tokenizer.to_dict()} if tokenizer else {}),
        "dropout": DROPOUT,
    }


def load_run(parts: Parts, checkpoint: Checkpoint, *, moments: bool = True) -> TrainState:
    """Load weights, and with ``moments`` the optimizer's state, from a verified checkpoint under any layout.

    Raises CheckpointError when it belongs to another model.
    """
    state, stored = stored_run(checkpoint)
    refuse_other_shape(parts.config.model, stored.model, str(checkpoint.path))
    shards, data_group = describe(parts, loading=True), parts.groups.data_context.group
    loaded = everywhere_own(lambda: read_shards(checkpoint.path / SHARDS, shards, data_group))
    with torch.no_grad():
        for entry in canonical_parameters(list(parts.chunks)):
            entry.parameter.copy_(loaded["weights"][entry.name])
    parts.optimizer.load_state_dict(loaded["optimizer"])
    if not moments:
        with torch.no_grad():
            inner = parts.optimizer.optimizer
            for held in (inner.state[tensor] for tensor in inner.tensors()):  # what is frozen has none
                held["exp_avg"].zero_()
                held["exp_avg_sq"].zero_()
        state = replace(state, updates=0)
    parts.optimizer.updates = state.updates
    return state


def named_shards(models: Sequence[torch.nn.Module], groups: Groups) -> NamedShards:
    """This rank's parameters, described.

    Rows of a QKV matrix stay in Megatron-Core's order, head by head; the rest is as in ``model.canonical``. Padding
    rows of the vocabulary are stored, and may differ in number when read.
    """
    tensor, last_of_many = groups.tensor, groups.pipeline.size > 1 and groups.pipeline.is_last
    described: NamedShards = {}
    for entry in canonical_parameters(list(models)):
        split = entry.sharding in _SPLIT_AXIS
        offsets = [(_SPLIT_AXIS[entry.sharding], tensor.rank, tensor.size)] if split else []
        second_home = int(last_of_many and entry.name == "embedding.weight")  # of the tied embedding
        shard = ShardedTensor.from_rank_offsets(
            f"weight.{entry.name}",
            entry.parameter,
            *offsets,
            replica_id=(second_home, 0 if split else tensor.rank, groups.data_context.rank),
            allow_shape_mismatch=entry.sharding == "vocabulary",
        )
        described[entry.name] = apply_swiglu_sharded_factory(shard, ()) if entry.sharding == "halves" else shard
    return described
