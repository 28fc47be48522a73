"""The models that another one is made from: checkpoints of runs and Hugging Face folders, opened alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.load import find
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.export.huggingface import Export, open_folder
from megatron_ettin.export.runs import TRAINING_FILE, described, load_checkpoint
from megatron_ettin.regular_files import refuse_special_files
from megatron_ettin.run_folder import TOKENIZER, being_trained, is_run, parse_source
from megatron_ettin.tokenizer.identity import TokenizerIdentity, read_identity
from megatron_ettin.typed_json import parse_json


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

    @property
    def size(self) -> str:
        """The name of its shape, for the card; empty where no training of ours is known."""
        return str(self.training["run"]["model"]["size"]) if self.training else ""

    def facts(self) -> dict[str, Any]:
        """For the record of what is made of it."""
        known = [name for name in ("revision", "checkpoint") if name in self.training]
        return {"model": self.name} | {name: self.training[name] for name in known}


def open_source(text: str, say: Callable[[str], None]) -> Source:
    """RUN, RUN@STEP or a Hugging Face folder. No weight is read yet.

    ``say`` takes lines about a run that is being trained, or a tokenizer of which only the size is known. Raises
    CheckpointError for what is no model or damaged, DataError for one without a tokenizer.
    """
    folder, step = parse_source(text)
    refuse_special_files(folder)
    if is_run(folder):
        if line := being_trained(folder):
            say(line)
        loaded = load_checkpoint(find(folder, step))
        export, training = described(loaded, "float32", None, say)
        identity = loaded.tokenizer or read_identity(export.tokenizer_json)
        return Source(name=text, export=export, tokenizer=identity, training=training)
    if step is not None or not folder.is_dir():
        raise CheckpointError(f"{text} is neither a run nor a Hugging Face folder; give the folder of a model")
    read = open_folder(folder)
    if not (folder / TOKENIZER).is_file():
        raise DataError(f"{folder} has no {TOKENIZER}; copy that of the model's training into it")
    export = Export(
        model=read.config.model,
        objective=OBJECTIVES[read.config.objective],
        tensors=read.tensors,
        tokenizer_json=folder / TOKENIZER,
    )
    identity, training = read_identity(folder / TOKENIZER), _training(folder / TRAINING_FILE)
    return Source(name=text, export=export, tokenizer=identity, training=training)


def _training(path: Path) -> dict[str, Any]:
    """The content of a training.json; empty where there is none. Raises CheckpointError."""
    try:
        return dict(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it, or export the run again") from error
