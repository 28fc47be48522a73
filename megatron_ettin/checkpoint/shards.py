"""The tensors of a checkpoint in Megatron-Core's torch_dist format, readable under any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)

from megatron_ettin.checkpoint.allowed import check_index

Shards = dict[str, Any]
"""Names of tensors, nested, with Megatron-Core's ShardedTensor for each."""

OPTIMIZER_FORMAT = "fully_reshardable"


def metadata_for(data_group: torch.distributed.ProcessGroup) -> dict[str, Any]:
    """What Megatron-Core's modules and optimizer must know to describe their tensors."""
    return {
        "distrib_optim_sharding_type": OPTIMIZER_FORMAT,
        "non_homogeneous_layers": True,
        "dp_cp_group": data_group,
        "chained_optim_avoid_prefix": True,
    }


def write_shards(folder: Path, shards: Shards, data_group: torch.distributed.ProcessGroup) -> None:
    """Write the tensors into an empty ``folder``; every rank calls this and the data ranks share the writing."""
    strategy = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy(), data_group)
    dist_checkpointing.save(shards, str(folder), strategy)


def read_shards(folder: Path, shards: Shards, data_group: torch.distributed.ProcessGroup) -> Shards:
    """Fill the described tensors from ``folder``, each exactly once; every rank calls this.

    Raises CheckpointError when the index of the shards names anything but shards.
    """
    check_index(folder / ".metadata")
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), data_group)
    loaded: Shards = dist_checkpointing.load(shards, str(folder), strategy, strict="raise_all")
    return loaded
