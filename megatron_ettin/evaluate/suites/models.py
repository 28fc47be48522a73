"""Loaded models and tokenizers, kept from subject to subject: another checkpoint is other weights in one module."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.evaluate.generative.engines import (
    Engine,
    PackedEngine,
    load_any,
    load_engine,
    padded_engine,
)
from megatron_ettin.evaluate.suites.subjects import TOKENIZERS, Subject
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from megatron_ettin.export.huggingface import read_folder, read_folder_config
from megatron_ettin.export.weights import StoredTensors, weight_files
from megatron_ettin.model.canonical import load_full_state
from megatron_ettin.typed_json import parse_json

TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Fields of config.json in which two folders of one architecture may differ."""


@dataclass
class Kept:
    """What is in memory, whose weights it has, and what it is otherwise."""

    fingerprint: str
    shape: Any
    loaded: Any


@dataclass
class Models:
    """One engine, one transformers model and one tokenizer: the suites of an evaluation share them.

    What is asked for next takes the place of what was there, whose references in the hands of others see it too.
    """

    _engine: Kept | None = None
    _plain: Kept | None = None
    _tokenizers: dict[str, Any] = field(default_factory=dict)

    def engine(self, subject: Subject) -> Engine:
        """The engine that computes the subject's architecture. Raises CheckpointError, also for weights with NaN."""
        if not subject.ours:
            return padded_engine(self.plain(subject))
        config = read_folder_config(subject.folder)
        shape = (replace(config.model, size=""), config.objective)
        kept = self._engine
        if kept is not None and kept.shape == shape:
            if kept.fingerprint != subject.fingerprint:
                engine: PackedEngine = kept.loaded
                kept.fingerprint = ""  # until all of it is there
                load_full_state([engine.model], engine.groups, read_folder(subject.folder).tensors)
                kept.fingerprint = subject.fingerprint
        else:
            self._engine = None  # two models need not fit
            self._engine = kept = Kept(subject.fingerprint, shape, load_engine(subject))
        found: Engine = kept.loaded
        return found

    def plain(self, subject: Subject) -> Any:  # noqa: ANN401 - transformers has no types
        """The subject by transformers, in float32. Raises CheckpointError."""
        content = parse_json((subject.folder / "config.json").read_text(encoding="utf-8"))
        shape = {name: value for name, value in content.items() if name not in WITHOUT_EFFECT}
        kept = self._plain
        if kept is not None and kept.shape == shape and kept.fingerprint == subject.fingerprint:
            return kept.loaded
        if kept is not None and kept.shape == shape:
            kept.fingerprint = ""
            if copied(StoredTensors(weight_files(subject.folder)), kept.loaded):
                kept.fingerprint = subject.fingerprint
                return kept.loaded
        self._plain = None
        self._plain = Kept(subject.fingerprint, shape, load_any(subject))
        return self._plain.loaded

    def tokenizer(self, subject: Subject) -> Any:  # noqa: ANN401
        """The subject's tokenizer; folders with the same files have one. Raises CheckpointError."""
        key = f"{tokenizer_digest(subject.folder)} {subject.causal}"
        if key not in self._tokenizers:
            self._tokenizers[key] = tokenizer_of(subject)
        return self._tokenizers[key]


@torch.no_grad()
def copied(tensors: Mapping[str, Tensor], model: Any) -> bool:  # noqa: ANN401
    """Copy stored tensors into a model; False, and nothing is changed, unless its parameters go by the same names."""
    parameters = dict(model.named_parameters())
    if not parameters.keys() <= tensors.keys():
        return False
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
    return True


def tokenizer_digest(folder: Path) -> str:
    """One word that changes with any byte of a tokenizer's files."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"{name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()
