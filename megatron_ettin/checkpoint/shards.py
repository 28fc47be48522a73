"""The tensors of a checkpoint in Megatron-Core's torch_dist format, readable under any layout."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import contextlib
import enum
import io
import pickle
from collections.abc import Collection, Iterable, Iterator, Mapping
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

from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.run_folder import SHARDS, STATE

Shards = dict[str, Any]
"""Names of tensors, nested, with Megatron-Core's ShardedTensor for each."""

INDEX, COMMON, FORMAT_OF_SHARDS = ".metadata", "common.pt", "metadata.json"
"""Torch's index of the shards; what Megatron-Core stores beside them."""


class _WriteHere(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Megatron-Core's torch_dist format, written by this process.

    Its own writer starts a server process on every rank and forks two more for each save, for the sake of saving in
    the background; here a save is over when it returns, and an error reaches the caller.
    """

    def __init__(self, writer: FileSystemWriter | None) -> None:
        super().__init__("torch_dist", 1)
        self._writer = writer

    def save(self, sharded_state_dict: Shards, checkpoint_dir: Path | str) -> None:
        """Write this rank's tensors and, on the first rank, their index."""
        shards, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, keep_only_main_replica=True)
        torch_save(
            mcore_to_pyt_state_dict(shards, False),
            storage_writer=self._writer or FileSystemWriter(checkpoint_dir, sync_files=False),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


def write_shards(
    folder: Path,
    shards: Shards,
    data_group: torch.distributed.ProcessGroup,
    writer: FileSystemWriter | None = None,
) -> None:
    """Write the tensors into an empty ``folder``; every rank calls this and the data ranks share the writing.

    ``writer`` is what writes this rank's part; default: torch's own, at once.
    """
    strategy = FullyParallelSaveStrategyWrapper(_WriteHere(writer), data_group)
    with torch_errors(f"{folder} cannot be written"):
        dist_checkpointing.save(shards, str(folder), strategy)


@torch.no_grad()
def read_shards(folder: Path, shards: Shards, data_group: torch.distributed.ProcessGroup) -> Shards:
    """Fill the described tensors from ``folder``, each exactly once; every rank calls this.

    Raises CheckpointError when the index of the shards names anything but shards.
    """
    check_index(folder / INDEX)
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), data_group)
    with torch_errors(f"{folder} cannot be read"):
        loaded: Shards = dist_checkpointing.load(shards, str(folder), strategy, strict="raise_all")
    return loaded


@contextlib.contextmanager
def torch_errors(what: str) -> Iterator[None]:
    """Torch collects the ranks' errors in an exception that is no Exception: say the first one."""
    try:
        yield
    except CheckpointException as error:
        rank, failure = next(iter(error.failures.items()))
        raise CheckpointError(f"{what}: rank {rank}: {failure[0]}") from error
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise CheckpointError(f"{what}: the disk takes no more ({error}); make room, then start again") from error


_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType",
    },
    "torch.distributed._shard.sharded_tensor.metadata": {"MEM_FORMAT_ENCODING", "TensorProperties"},
    "torch": {"Size", "bfloat16", "bool", "device", "float16", "float32", "float64", "int32", "int64", "uint8"},
    "torch.serialization": {"_get_layout"},
    "megatron.core.dist_checkpointing.core": {"CheckpointingConfig"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "collections": {"OrderedDict"},
}  # fmt: skip
"""What a stored file may name: torch's index of shards is a pickle, and is looked through before torch reads it."""


def _member(owner: object, name: object) -> object:
    """What stands for ``getattr``, by which some versions of Python store a member of an enumeration: only that."""
    if not (isinstance(owner, type) and issubclass(owner, enum.Enum) and name in owner.__members__):
        raise CheckpointError(f"it takes {name!r} of {owner!r}, which no checkpoint needs")
    return owner.__members__[str(name)]


class _Listed(pickle.Unpickler):
    """Builds listed classes only: plain records without side effects."""

    def __init__(self, content: bytes, also: Mapping[str, Collection[str]]) -> None:
        super().__init__(io.BytesIO(content))
        self._also = also

    def find_class(self, module: str, name: str) -> object:
        """A listed class by its name. Raises CheckpointError for any other, and for one that this torch has not."""
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name not in _ALLOWED.get(module, ()) and name not in self._also.get(module, ()):
            raise CheckpointError(f"it names {module}.{name}, which no checkpoint needs")
        try:
            found: object = super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise CheckpointError(f"it needs {module}.{name}, which this version of torch has not: {error}") from error
        return found


def unpickle_records(content: bytes, also: Mapping[str, Collection[str]]) -> Any:  # noqa: ANN401
    """Plain records of a checkpoint, and those of the classes ``also`` (module -> names); nothing else is built.

    Raises CheckpointError for any other class, and what a damaged pickle raises.
    """
    return _Listed(content, also).load()


def check_index(path: Path) -> Any:  # noqa: ANN401
    """The index of shards at ``path``, read without running anything in it: torch's ``Metadata``.

    Raises DamagedError when it is no pickle of an index, CheckpointError when it names anything but shards or what
    this version of torch has not, OSError when it cannot be read.
    """
    content = path.read_bytes()
    try:
        return unpickle_records(content, {})
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails in many ways
        raise DamagedError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def check_complete(folder: Path, names: Iterable[str]) -> None:
    """Raise DamagedError unless ``names`` (relative to a checkpoint's folder) hold all that a checkpoint must.

    That is the state, every file that the index of the shards names, as long as the parts that it names in it, and
    Megatron-Core's own. Raises as ``check_index`` too.
    """
    path = folder / SHARDS / INDEX
    shards: dict[str, int] = {}
    try:
        for place in check_index(path).storage_data.values():
            shards[place.relative_path] = max(shards.get(place.relative_path, 0), place.offset + place.length)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except (AttributeError, TypeError) as error:
        raise DamagedError(f"{path} is no index of shards: {error}") from error
    needed = {STATE, *(f"{SHARDS}/{name}" for name in (INDEX, COMMON, FORMAT_OF_SHARDS, *shards))}
    if lacking := sorted(needed - set(names)):
        raise DamagedError(f"{folder / lacking[0]} had to be written and was not")
    for name, size in shards.items():
        if (found := (folder / SHARDS / name).stat().st_size) < size:
            raise DamagedError(f"{folder / SHARDS / name} ends at byte {found}; its index names tensors up to {size}")
