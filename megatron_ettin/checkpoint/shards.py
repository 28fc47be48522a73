"""The tensors of a checkpoint in Megatron-Core's torch_dist format, readable under any layout."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as torch_save

from megatron_ettin.checkpoint.allowed import check_index
from megatron_ettin.errors import CheckpointError

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


class _WriteHere(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Megatron-Core's torch_dist format, written by this process.

    Its own writer starts a server process on every rank and forks two more for each save, for the sake of saving in
    the background; here a save is over when it returns, and an error reaches the caller.
    """

    def save(self, sharded_state_dict: Shards, checkpoint_dir: Path | str) -> None:
        """Write this rank's tensors and, on the first rank, their index."""
        shards, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, keep_only_main_replica=True)
        torch_save(
            mcore_to_pyt_state_dict(shards, False),
            storage_writer=FileSystemWriter(checkpoint_dir, sync_files=False),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


def write_shards(folder: Path, shards: Shards, data_group: torch.distributed.ProcessGroup) -> None:
    """Write the tensors into an empty ``folder``; every rank calls this and the data ranks share the writing."""
    strategy = FullyParallelSaveStrategyWrapper(_WriteHere("torch_dist", 1), data_group)
    with _torch_errors(f"{folder} cannot be written"):
        dist_checkpointing.save(shards, str(folder), strategy)


@torch.no_grad()
def read_shards(folder: Path, shards: Shards, data_group: torch.distributed.ProcessGroup) -> Shards:
    """Fill the described tensors from ``folder``, each exactly once; every rank calls this.

    Raises CheckpointError when the index of the shards names anything but shards.
    """
    check_index(folder / ".metadata")
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), data_group)
    with _torch_errors(f"{folder} cannot be read"):
        loaded: Shards = dist_checkpointing.load(shards, str(folder), strategy, strict="raise_all")
    return loaded


@contextlib.contextmanager
def _torch_errors(what: str) -> Iterator[None]:
    """Torch collects the ranks' errors in an exception that is no Exception: say the first one."""
    try:
        yield
    except CheckpointException as error:
        rank, failure = next(iter(error.failures.items()))
        raise CheckpointError(f"{what}: rank {rank}: {failure[0]}") from error
