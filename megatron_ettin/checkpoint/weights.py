"""The weights in a checkpoint of any layout, read tensor by tensor: no model, no optimizer, no process group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from megatron_ettin.checkpoint.shards import INDEX, check_index, torch_errors
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.weights import Weight, weights
from megatron_ettin.errors import CheckpointError
from megatron_ettin.run_folder import SHARDS, Checkpoint

MAIN_WEIGHT = "optimizer.state.param.weight."
"""Before a weight's name: the float32 one that the optimizer updates, whatever the model computes in."""


def from_head_order(joined: Tensor, heads: int) -> Tensor:
    """Rows of a QKV matrix from Megatron-Core's order, head by head, to all queries, all keys, all values."""
    return joined.view(heads, 3, -1, joined.shape[1]).transpose(0, 1).reshape(joined.shape)


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity: one reading where it does not, for its sum is finite too."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each made when it is asked for, in the way of a subclass."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StoredWeights(LazyTensors):
    """Name, as in `config.weights`, -> float32 tensor; each is read when it is asked for and not kept.

    Costs the largest tensor twice in memory. Raises CheckpointError when a tensor is missing or has another shape, and
    where it is read and holds NaN or infinity.
    """

    def __init__(self, checkpoint: Checkpoint, model: ModelConfig) -> None:
        self._folder, self._heads = checkpoint.path / SHARDS, model.heads
        check_index(self._folder / INDEX)
        stored = FileSystemReader(self._folder).read_metadata().state_dict_metadata
        self._weights: dict[str, tuple[Weight, torch.Size]] = {}
        for weight in weights(model):
            found = stored.get(MAIN_WEIGHT + weight.name)
            if not isinstance(found, TensorStorageMetadata) or found.properties.dtype != torch.float32:
                raise CheckpointError(f"{self._folder} holds no float32 tensor for {weight.name}")
            rows, *columns = found.size
            padded = weight.split == "vocabulary" and rows >= weight.shape[0]
            if (weight.shape[0] if padded else rows, *columns) != weight.shape:
                raise CheckpointError(
                    f"{self._folder}: {weight.name} is of shape {tuple(found.size)}; {model.size} needs {weight.shape}"
                )
            self._weights[weight.name] = weight, found.size
        super().__init__(self._weights)

    def __getitem__(self, name: str) -> Tensor:
        weight, size = self._weights[name]
        key = MAIN_WEIGHT + name
        tensor = torch.empty(size)
        with torch_errors(f"{self._folder} cannot be read"):
            load({key: tensor}, storage_reader=FileSystemReader(self._folder), no_dist=True)
        if not all_finite(tensor):
            raise CheckpointError(f"tensor {name} of {self._folder} holds NaN or infinity; take another checkpoint")
        return from_head_order(tensor, self._heads) if weight.split == "heads" else tensor[: weight.shape[0]]
