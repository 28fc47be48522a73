"""The one table between our names of tensors and those of Hugging Face's ModernBERT encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from megatron_ettin.checkpoint.weights import LazyTensors
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.weights import Weight, shapes, weights
from megatron_ettin.errors import CheckpointError

Kind = Literal["encoder", "decoder"]
"""Which Hugging Face class a folder holds: ModernBertForMaskedLM or ModernBertDecoderForCausalLM."""

BOTH: dict[str, str] = {
    "embedding.weight": "model.embeddings.tok_embeddings.weight",
    "embedding_norm.weight": "model.embeddings.norm.weight",
    "layers.{i}.attention_norm.weight": "model.layers.{i}.attn_norm.weight",
    "layers.{i}.attention_out.weight": "model.layers.{i}.attn.Wo.weight",
    "layers.{i}.mlp_norm.weight": "model.layers.{i}.mlp_norm.weight",
    "layers.{i}.mlp_in.weight": "model.layers.{i}.mlp.Wi.weight",
    "layers.{i}.mlp_out.weight": "model.layers.{i}.mlp.Wo.weight",
    "final_norm.weight": "model.final_norm.weight",
    "head.bias": "decoder.bias",
}
NAMES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "encoder": {
        **{row: (name,) for row, name in BOTH.items()},
        "layers.{i}.qkv.weight": ("model.layers.{i}.attn.Wqkv.weight",),
        "head.dense.weight": ("head.dense.weight",),
        "head.norm.weight": ("head.norm.weight",),
    },
    "decoder": {
        **{row: (name,) for row, name in BOTH.items()},
        "layers.{i}.qkv.weight": tuple(f"model.layers.{{i}}.attn.{part}_proj.weight" for part in "qkv"),
        "head.dense.weight": ("lm_head.dense.weight",),
        "head.norm.weight": ("lm_head.norm.weight",),
    },
}  # fmt: skip
"""A line of `config.weights.TABLE` -> its names there; several stand for tensors of equal shape, stacked along rows."""

TIED_NAME, TIED_TO = "decoder.weight", BOTH["embedding.weight"]
"""Some folders store the output projection again; it must be the embedding, bit for bit."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of our tensors and its forms there."""

    weight: Weight
    names: tuple[str, ...]
    """Hugging Face's names of its parts."""
    part_shape: tuple[int, ...]
    """Shape of each of them."""


def entries(model: ModelConfig, kind: Kind) -> Iterator[Entry]:
    """Every tensor of the model, in model order."""
    for weight in weights(model):
        names = tuple(name.format(i=weight.layer) for name in NAMES[kind][weight.row])
        rows, *columns = weight.shape
        yield Entry(weight=weight, names=names, part_shape=(rows // len(names), *columns))


def huggingface_shapes(model: ModelConfig, kind: Kind) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an exported folder."""
    return {name: entry.part_shape for entry in entries(model, kind) for name in entry.names}


class Renamed(LazyTensors):
    """Tensors made from those of another mapping when they are asked for; nothing is kept."""

    def __init__(self, makers: dict[str, Callable[[], Tensor]]) -> None:
        super().__init__(makers)
        self._makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()


def to_huggingface(tensors: Mapping[str, Tensor], model: ModelConfig, kind: Kind) -> Renamed:
    """Our tensors under Hugging Face names. Values are not changed, only named and split.

    Raises CheckpointError when a tensor is missing or not expected and, where it is asked for, of another shape.
    """
    where = "the model's state"
    require_names(tensors, shapes(model), where)

    def part(entry: Entry, index: int) -> Tensor:
        whole = fitting(tensors[entry.weight.name], entry.weight.name, entry.weight.shape, where)
        return whole.chunk(len(entry.names))[index].contiguous()

    return Renamed({n: partial(part, entry, i) for entry in entries(model, kind) for i, n in enumerate(entry.names)})


def from_huggingface(tensors: Mapping[str, Tensor], model: ModelConfig, kind: Kind) -> Renamed:
    """Our tensors from those of a Hugging Face folder: the exact inverse of ``to_huggingface``.

    A stored copy of the tied output projection is accepted when it equals the embedding bit for bit.
    Raises CheckpointError when a tensor is missing, not expected or not tied and, where it is asked for, of another
    shape.
    """
    names = [name for name in tensors if name != TIED_NAME]
    if TIED_NAME in tensors and not (TIED_TO in tensors and torch.equal(tensors[TIED_NAME], tensors[TIED_TO])):
        raise CheckpointError(f"{TIED_NAME} differs from {TIED_TO}; only models with tied embeddings can be read")
    where = f"the {kind} folder"
    require_names(names, huggingface_shapes(model, kind), where)

    def whole(entry: Entry) -> Tensor:
        parts = [fitting(tensors[name], name, entry.part_shape, where) for name in entry.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return Renamed({entry.weight.name: partial(whole, entry) for entry in entries(model, kind)})


def require_names(names: Mapping[str, object] | list[str], expected: Mapping[str, object], where: str) -> None:
    """Raise CheckpointError unless ``names`` are exactly the expected ones."""

    def some(names: list[str], limit: int = 4) -> str:
        more = f" and {len(names) - limit} more" if len(names) > limit else ""
        return ", ".join(sorted(names)[:limit]) + more if names else "none"

    missing = [name for name in expected if name not in names]
    extra = [name for name in names if name not in expected]
    if missing or extra:
        raise CheckpointError(
            f"{where} does not fit the model: missing {some(missing)}; not expected {some(extra)}; "
            f"a folder must hold exactly the tensors of its config.json"
        )


def fitting(tensor: Tensor, name: str, shape: tuple[int, ...], where: str) -> Tensor:
    """The tensor; raises CheckpointError when it has another shape than its model's."""
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"tensor {name} of {where} has shape {tuple(tensor.shape)}, its config says {shape}")
    return tensor
