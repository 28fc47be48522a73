"""The models that another one is made from: checkpoints of runs and Hugging Face folders, opened alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ettin.adapt.start import roles_elsewhere, tokenizer_of, training_of
from megatron_ettin.checkpoint.load import find
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.errors import CheckpointError
from megatron_ettin.export.config_json import objective_as
from megatron_ettin.export.hub import is_hub_name, snapshot
from megatron_ettin.export.huggingface import Export, open_folder
from megatron_ettin.export.mapping import Kind
from megatron_ettin.export.runs import described, load_checkpoint
from megatron_ettin.plans.chosen import named_run
from megatron_ettin.regular_files import refuse_special_files
from megatron_ettin.run_folder import TOKENIZER, being_trained, is_run
from megatron_ettin.tokenizer.identity import TokenizerIdentity, read_identity, vocabulary_of
from megatron_ettin.tokenizer.special_tokens import ROLE_NAMES, missing_roles


@dataclass(frozen=True, kw_only=True)
class Source:
    """One model, its tensors still on the disk."""

    name: str
    """As the user gave it."""
    export: Export
    """Shape, objective, tokenizer files, and the tensors, each read when it is asked for."""
    tokenizer: TokenizerIdentity
    training: dict[str, Any]
    """The content of its training.json, or what a run's export would have there; empty for other makers' folders."""
    commit: str = ""
    """Of a hub name."""

    @property
    def size(self) -> str:
        """The name of its shape, for the card; empty where no training of ours is known."""
        return str(self.training["run"]["model"]["size"]) if self.training else ""

    def facts(self) -> dict[str, Any]:
        """For the record of what is made of it."""
        known = [name for name in ("revision", "checkpoint") if name in self.training]
        commit = {"commit": self.commit} if self.commit else {}
        return {"model": self.name} | commit | {name: self.training[name] for name in known}


def open_source(text: str, say: Callable[[str], None], kind: Kind | None = None) -> Source:
    """RUN, PLAN or PLAN/STAGE, also with @STEP, a Hugging Face folder or a hub name. No weight is read yet.

    ``kind``: which model is meant of a run that trains an encoder and a decoder in one. ``say`` takes lines about the
    stage of a plan that is taken, a run that is being trained, or a tokenizer of which only the size is known. Raises
    CheckpointError for what is no model or damaged, DataError for one without a tokenizer, ConfigError for a kind that
    is missing or has no effect.
    """
    if is_hub_name(text):
        folder = snapshot(text)
        return _open_folder(text, folder, kind, commit=folder.name)
    folder, step = named_run(text, say)
    refuse_special_files(folder)
    if is_run(folder):
        if line := being_trained(folder):
            say(line)
        loaded = load_checkpoint(find(folder, step))
        export, training = described(loaded, "float32", None, say, kind)
        identity = loaded.tokenizer or read_identity(export.tokenizer_json)
        return Source(name=text, export=export, tokenizer=identity, training=training)
    if step is not None or not folder.is_dir():
        raise CheckpointError(
            f"{text} is neither a run, a plan nor a Hugging Face folder, and no hub name (OWNER/NAME or "
            "OWNER/NAME@REVISION)"
        )
    return _open_folder(text, folder, kind)


def _open_folder(name: str, folder: Path, kind: Kind | None, commit: str = "") -> Source:
    """A Hugging Face folder, or the files of a hub name at a commit."""
    read = open_folder(folder)
    objective_as(OBJECTIVES[read.config.objective], kind)
    content = tokenizer_of(folder, read.config.model)
    ids, identity = vocabulary_of(content), read_identity(folder / TOKENIZER)
    elsewhere = {ROLE_NAMES[role]: ids[token] for role, token in roles_elsewhere(folder, content).items()}
    identity = replace(identity, special_ids=identity.special_ids | elsewhere)
    export = Export(
        model=read.config.model,
        objective=OBJECTIVES[read.config.objective],
        tensors=read.tensors,
        tokenizer_json=folder / TOKENIZER,
        special_ids=None if missing_roles(identity.special_ids) else identity.special_ids,
    )
    return Source(name=name, export=export, tokenizer=identity, training=training_of(folder), commit=commit)
