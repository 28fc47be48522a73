"""What a stored file may name: torch's index of shards is a pickle, and is looked through before torch reads it."""

from __future__ import annotations

import enum
import io
import pickle
from pathlib import Path

from megatron_ettin.errors import CheckpointError

_CLASSES = {
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


def _member(owner: object, name: object) -> object:
    """What stands for ``getattr``, by which some versions of Python store a member of an enumeration: only that."""
    if not (isinstance(owner, type) and issubclass(owner, enum.Enum) and name in owner.__members__):
        raise CheckpointError(f"it takes {name!r} of {owner!r}, which no checkpoint needs")
    return owner.__members__[str(name)]


class _Listed(pickle.Unpickler):
    """Builds listed classes only: plain records without side effects."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name not in _CLASSES.get(module, ()):
            raise CheckpointError(f"it names {module}.{name}, which no checkpoint needs")
        found: object = super().find_class(module, name)
        return found


def check_index(path: Path) -> None:
    """Raise CheckpointError unless the pickle at ``path`` is an index of shards and nothing else."""
    try:
        _Listed(io.BytesIO(path.read_bytes())).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except Exception as error:  # a damaged pickle fails in many ways
        raise CheckpointError(f"{path} cannot be read: {error}") from error
