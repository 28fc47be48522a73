"""Write a model as a Hugging Face folder, and read one without ever running what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from megatron_ettin.config.objective import OBJECTIVES, Objective
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.export.card import card
from megatron_ettin.export.config_json import FolderConfig, kind_of, read_config, write_config
from megatron_ettin.export.mapping import TIED_NAME, from_huggingface, huggingface_shapes, to_huggingface
from megatron_ettin.export.tokenizer_files import write_json, write_tokenizer
from megatron_ettin.export.weights import DTYPES, WEIGHTS, StoredTensors, save_weights, weight_files
from megatron_ettin.regular_files import refuse_special_files
from megatron_ettin.tokenizer.identity import read_tokenizer, vocabulary_of
from megatron_ettin.typed_json import parse_json

StoredType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A model on its way out."""

    model: ModelConfig
    objective: Objective
    tensors: Mapping[str, Tensor]
    """Canonical name -> tensor, unpadded."""
    tokenizer_json: Path
    special_ids: Mapping[str, int] | None = None
    """Ids by role that the model was trained with; None: those that the tokenizer's files name."""
    dtype: StoredType = "float32"
    """As stored; bfloat16 halves the file and rounds float32 weights."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the card: run, stage, step, tokens."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """A model read from a folder."""

    config: FolderConfig
    tensors: Mapping[str, Tensor]
    """Canonical name -> float32 tensor."""
    dtype: str
    """How the folder stores its tensors: float32, bfloat16, float16 or mixed."""


def write_folder(folder: Path, export: Export) -> None:
    """Fill the existing, empty ``folder``; use it inside ``publish``. Raises CheckpointError, DataError."""
    kind = kind_of(export.objective)
    last = max(vocabulary_of(read_tokenizer(export.tokenizer_json)).values())
    if last >= export.model.vocabulary:
        raise DataError(
            f"{export.tokenizer_json} has ids up to {last}, the model a vocabulary of {export.model.vocabulary}; "
            "give the tokenizer that the model was trained with"
        )
    length = export.model.maximum_length
    ids = write_tokenizer(folder, export.tokenizer_json, kind, length, export.special_ids)
    write_json(folder / "config.json", write_config(export.model, export.objective, ids, export.dtype))
    if kind == "decoder":
        ends = {"bos_token_id": ids["[CLS]"], "eos_token_id": ids["[SEP]"], "pad_token_id": ids["[PAD]"]}
        write_json(folder / "generation_config.json", ends)
    tensors, shapes = to_huggingface(export.tensors, export.model, kind), huggingface_shapes(export.model, kind)
    save_weights(folder / WEIGHTS, tensors, shapes, getattr(torch, export.dtype))
    mask = parse_json((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["mask_token"]
    (folder / "README.md").write_text(card(export.model, export.objective, export.origin, mask), encoding="utf-8")


def read_folder_config(folder: Path) -> FolderConfig:
    """What the folder's config.json says; opens nothing else. Raises CheckpointError, also for a pipe beside it."""
    return read_config(read_fields(folder), str(folder), size=Path(folder).resolve().name)


def read_fields(folder: Path) -> dict[str, Any]:
    """The fields of config.json, of a model of any architecture. Raises CheckpointError, also for a pipe beside it."""
    path = Path(folder) / "config.json"
    refuse_special_files(path.parent)
    try:
        fields = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; give a Hugging Face folder of a model") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch the folder again") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return fields


def open_folder(folder: Path) -> Import:
    """Config and canonical tensors of a ModernBERT or Ettin folder, from safetensors alone; read when asked for.

    Names and shapes are checked from the headers before any tensor is read. Raises CheckpointError.
    """
    folder = Path(folder)
    config = read_folder_config(folder)
    stored = StoredTensors(weight_files(folder))
    expected = huggingface_shapes(config.model, config.kind)
    for name, (shape, kind) in stored.shapes.items():
        if kind not in DTYPES:
            raise CheckpointError(f"tensor {name} of {folder} is stored as {kind}; {', '.join(DTYPES)} are read")
        if name in expected and shape != expected[name]:
            raise CheckpointError(f"tensor {name} of {folder} has shape {shape}, its config.json says {expected[name]}")
    missing = sorted(set(expected) - set(stored))
    extra = sorted(set(stored) - set(expected) - {TIED_NAME})
    if missing or extra:
        raise CheckpointError(
            f"{folder} does not hold the tensors of its config.json: missing {missing[:4]}, not expected {extra[:4]}"
        )
    tensors = from_huggingface(stored, config.model, config.kind)
    types = {kind for _, kind in stored.shapes.values()}
    dtype = str(DTYPES[types.pop()]).removeprefix("torch.") if len(types) == 1 else "mixed"
    return Import(config=config, tensors=tensors, dtype=dtype)


def read_folder(folder: Path) -> Import:
    """The same with all tensors in memory, each looked through for NaN and infinity. Raises CheckpointError."""
    opened = open_folder(folder)
    return replace(opened, tensors=dict(opened.tensors))


def read_canonical(folder: Path) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Shape and canonical float32 tensors of a folder, for a run that starts from it."""
    read = read_folder(folder)
    return read.config.model, read.tensors


def objective_of(config: FolderConfig) -> Objective:
    """The objective that the folder's model was trained on."""
    return OBJECTIVES[config.objective]
