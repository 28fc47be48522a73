"""The one table between our tensor names and those of Hugging Face's ModernBERT encoder and decoder."""

# V vocabulary, H hidden, I intermediate (one half of the gated MLP)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError

Kind = Literal["encoder", "decoder"]
"""Which Hugging Face class a folder holds: ModernBertForMaskedLM or ModernBertDecoderForCausalLM."""


@dataclass(frozen=True)
class Same:
    """One tensor under another name."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The Hugging Face names."""
        return (self.name,)


@dataclass(frozen=True)
class Stacked:
    """Several tensors of equal shape, stacked along their rows in this order."""

    names: tuple[str, ...]


Form = Same | Stacked


@dataclass(frozen=True)
class Row:
    """One line of the table: ``{i}`` stands for the layer; ``shape`` is written in the letters of ModelConfig."""

    canonical: str
    shape: tuple[str, ...]
    encoder: Form
    decoder: Form
    first_layer: int = 0
    """The tensor exists from this layer on: the first attention norm is an identity."""


def _same(canonical: str, shape: tuple[str, ...], name: str, first_layer: int = 0) -> Row:
    return Row(canonical, shape, Same(name), Same(name), first_layer)


_QKV_NAMES = tuple(f"model.layers.{{i}}.attn.{part}_proj.weight" for part in "qkv")

TABLE: tuple[Row, ...] = (
    _same("embedding.weight", ("V", "H"), "model.embeddings.tok_embeddings.weight"),
    _same("embedding_norm.weight", ("H",), "model.embeddings.norm.weight"),
    _same("layers.{i}.attention_norm.weight", ("H",), "model.layers.{i}.attn_norm.weight", first_layer=1),
    Row("layers.{i}.qkv.weight", ("3H", "H"), Same("model.layers.{i}.attn.Wqkv.weight"), Stacked(_QKV_NAMES)),
    _same("layers.{i}.attention_out.weight", ("H", "H"), "model.layers.{i}.attn.Wo.weight"),
    _same("layers.{i}.mlp_norm.weight", ("H",), "model.layers.{i}.mlp_norm.weight"),
    _same("layers.{i}.mlp_in.weight", ("2I", "H"), "model.layers.{i}.mlp.Wi.weight"),
    _same("layers.{i}.mlp_out.weight", ("H", "I"), "model.layers.{i}.mlp.Wo.weight"),
    _same("final_norm.weight", ("H",), "model.final_norm.weight"),
    Row("head.dense.weight", ("H", "H"), Same("head.dense.weight"), Same("lm_head.dense.weight")),
    Row("head.norm.weight", ("H",), Same("head.norm.weight"), Same("lm_head.norm.weight")),
    _same("head.bias", ("V",), "decoder.bias"),
)

TIED_NAME, TIED_TO = "decoder.weight", "model.embeddings.tok_embeddings.weight"
"""Some folders store the output projection again; it must be the embedding, bit for bit."""


@dataclass(frozen=True)
class Entry:
    """A table row for one layer of one model: names and shape filled in."""

    canonical: str
    shape: tuple[int, ...]
    form: Form

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of each Hugging Face tensor of this entry."""
        return (self.shape[0] // len(self.form.names), *self.shape[1:])


def entries(model: ModelConfig, kind: Kind) -> Iterator[Entry]:
    """Every tensor of the model, in the table's order with the layers in sequence."""
    sizes = {
        "V": model.vocabulary, "H": model.hidden, "3H": 3 * model.hidden,
        "I": model.intermediate, "2I": 2 * model.intermediate,
    }  # fmt: skip
    for row in TABLE:
        layers = range(row.first_layer, model.layers) if "{i}" in row.canonical else range(1)
        for layer in layers:
            form = row.encoder if kind == "encoder" else row.decoder
            shape = tuple(sizes[letter] for letter in row.shape)
            yield Entry(row.canonical.format(i=layer), shape, _filled(form, layer))


def _filled(form: Form, layer: int) -> Form:
    if isinstance(form, Same):
        return Same(form.name.format(i=layer))
    return Stacked(tuple(name.format(i=layer) for name in form.names))


def canonical_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every canonical tensor; the same for both kinds."""
    return {entry.canonical: entry.shape for entry in entries(model, "encoder")}


def huggingface_shapes(model: ModelConfig, kind: Kind) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an exported folder."""
    return {name: entry.part_shape for entry in entries(model, kind) for name in entry.form.names}


def to_huggingface(tensors: Mapping[str, Tensor], model: ModelConfig, kind: Kind) -> dict[str, Tensor]:
    """Canonical tensors under Hugging Face names. Values are not changed, only named and split.

    Raises CheckpointError when a tensor is missing, not expected, or has another shape.
    """
    require_shapes(tensors, canonical_shapes(model), "the model's state")
    ledger = Ledger()
    for entry in entries(model, kind):
        parts = tensors[entry.canonical].chunk(len(entry.form.names), dim=0)
        for name, part in zip(entry.form.names, parts, strict=True):
            ledger.set(name, part.contiguous())
    return ledger.tensors


def from_huggingface(tensors: Mapping[str, Tensor], model: ModelConfig, kind: Kind) -> dict[str, Tensor]:
    """Canonical tensors of a Hugging Face folder: the exact inverse of ``to_huggingface``.

    A stored copy of the tied output projection is accepted when it equals the embedding bit for bit.
    Raises CheckpointError when a tensor is missing, not expected, has another shape, or is not tied.
    """
    tensors = without_tied_copy(tensors)
    require_shapes(tensors, huggingface_shapes(model, kind), f"the {kind} folder")
    ledger = Ledger()
    for entry in entries(model, kind):
        parts = [tensors[name] for name in entry.form.names]
        ledger.set(entry.canonical, parts[0] if len(parts) == 1 else torch.cat(parts))
    return ledger.tensors


def without_tied_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors less a stored copy of the tied output projection; raises CheckpointError when it differs."""
    rest = dict(tensors)
    copy = rest.pop(TIED_NAME, None)
    if copy is not None and not (TIED_TO in rest and torch.equal(copy, rest[TIED_TO])):
        raise CheckpointError(f"{TIED_NAME} differs from {TIED_TO}; only models with tied embeddings can be read")
    return rest


class Ledger:
    """A dictionary of tensors in which each name is written exactly once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def set(self, name: str, tensor: Tensor) -> None:
        """Record ``tensor``; raises CheckpointError on a second write."""
        if name in self.tensors:
            raise CheckpointError(f"tensor {name} is set twice")
        self.tensors[name] = tensor


def require_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise CheckpointError unless ``tensors`` has exactly the names and shapes of ``shapes``."""
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    if missing or extra:
        raise CheckpointError(
            f"{where} does not fit the model: missing {_some(missing)}; not expected {_some(extra)}; "
            f"a folder must hold exactly the tensors of its config.json"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"tensor {name} of {where} has shape {tuple(tensors[name].shape)}, its config says {shape}"
            )


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more if names else "none"
