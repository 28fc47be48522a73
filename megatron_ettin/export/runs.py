"""Checkpoints of a run as Hugging Face folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.checkpoint.load import find
from megatron_ettin.checkpoint.manifest import read_manifest
from megatron_ettin.checkpoint.standing import stored_run
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.checkpoint.weights import StoredWeights
from megatron_ettin.config import codec
from megatron_ettin.config.objective import OBJECTIVES, Objective
from megatron_ettin.config.run import RunConfig, StageName
from megatron_ettin.corpus.format import member
from megatron_ettin.corpus.manifest import read_manifest as read_corpus_manifest
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.export.config_json import OBJECTIVE_FIELD, kind_of, objective_as
from megatron_ettin.export.huggingface import Export, StoredType, read_folder_config
from megatron_ettin.export.mapping import Kind, huggingface_shapes, to_huggingface
from megatron_ettin.export.parity import PARITY_FILE
from megatron_ettin.export.published import publish_export
from megatron_ettin.export.tokenizer_files import write_json
from megatron_ettin.export.weights import WEIGHTS, save_weights
from megatron_ettin.ownership import remove_dead_staging
from megatron_ettin.rows.data_record import read_data_record
from megatron_ettin.rows.mixture import read_mixture
from megatron_ettin.run_folder import DATA_RECORD, START, TOKENIZER, Checkpoint, list_checkpoints, stored_tokenizer
from megatron_ettin.tokenizer.identity import TokenizerIdentity, compare_tokenizers, read_identity
from megatron_ettin.tokenizer.special_tokens import missing_roles
from megatron_ettin.typed_json import parse_json

TRAINING_FILE = "training.json"
"""In an exported folder: the run's configuration and which checkpoint it was."""

REVISIONS: dict[StageName, str] = {"pretrain": "step", "extension": "ext", "decay": "decay", "cross": "cross"}
"""Stage -> prefix of a revision's name; the step follows."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The weights of one checkpoint and what is known about it."""

    config: RunConfig
    state: TrainState
    tensors: Mapping[str, Tensor]
    """Canonical name -> float32 tensor, each read when it is asked for."""
    checkpoint: Checkpoint
    fingerprint: str
    """Of the checkpoint's files."""
    tokenizer: TokenizerIdentity | None
    """The tokenizer it was trained with; None where an earlier version wrote it."""

    @property
    def revision(self) -> str:
        """``step1200``, ``ext50``, ``decay20`` or ``cross60``."""
        return f"{REVISIONS[self.config.stage]}{self.state.step}"


def load_checkpoint(checkpoint: Checkpoint) -> Loaded:
    """A verified checkpoint of any layout; the weights are the fp32 main ones."""
    state, config = stored_run(checkpoint)
    tensors = StoredWeights(checkpoint, config.model)
    return Loaded(
        config=config, state=state, tensors=tensors, checkpoint=checkpoint, fingerprint=fingerprint_of(checkpoint),
        tokenizer=stored_tokenizer(checkpoint),
    )  # fmt: skip


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """One word that changes with any file of the checkpoint."""
    return hashlib.sha256(repr(sorted(read_manifest(checkpoint.path).items())).encode()).hexdigest()


def tokenizer_of(run: Path, config: RunConfig) -> Path:
    """The run's own copy of its tokenizer.json; without one that of its first corpus, or of the folder it came from.

    Raises DataError when it is not where it was.
    """
    if (run / TOKENIZER).is_file():
        return run / TOKENIZER
    try:
        if not config.data.data:
            return Path(config.start.huggingface) / "tokenizer.json"
        return open_corpus(read_mixture(config.data.data).sources[0].prefix).tokenizer_json
    except DataError as error:
        raise DataError(f"the run's tokenizer is not found ({error}); give it with --tokenizer FILE") from error


def export_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: StoredType = "float32",
    tokenizer: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    kind: Kind | None = None,
) -> bool:
    """Publish one verified checkpoint as ``folder`` with its parity; False when it is there already.

    ``kind``: encoder or decoder, which must be said of a run that mixes masked rows with those of next tokens.
    What a killed export to it has left is removed. ``say`` takes the line that only the size of the vocabulary could be
    compared. Raises CheckpointError when the folder holds something else or the logits differ, DataError for another
    tokenizer than that of the training, OwnershipError when another process is writing it; then nothing is published.
    """
    remove_dead_staging(folder)
    objective = objective_as(OBJECTIVES[stored_run(checkpoint)[1].objective], kind)
    if is_exported(checkpoint, folder, dtype, objective):
        return False
    export, training = described(load_checkpoint(checkpoint), dtype, tokenizer, say, kind)
    publish_export(folder, export, {TRAINING_FILE: training})
    return True


def described(
    loaded: Loaded,
    dtype: StoredType,
    tokenizer: Path | None,
    say: Callable[[str], None],
    kind: Kind | None = None,
) -> tuple[Export, dict[str, Any]]:
    """A checkpoint on its way out, and the content of its training.json. Raises DataError for another tokenizer."""
    run = loaded.checkpoint.path.parent.parent
    tokenizer_json, identity = accepted_tokenizer(loaded, tokenizer or tokenizer_of(run, loaded.config), say)
    kinds, share = OBJECTIVES[loaded.config.objective].row_kinds, loaded.config.data.causal_share
    export = Export(
        model=loaded.config.model,
        objective=objective_as(OBJECTIVES[loaded.config.objective], kind),
        tensors=loaded.tensors,
        tokenizer_json=tokenizer_json,
        special_ids=None if missing_roles(identity.special_ids) else identity.special_ids,
        dtype=dtype,
        origin={
            **ancestry(run),
            "stage": loaded.config.stage,
            "revision": loaded.revision,
            "steps of the stage": f"{loaded.state.step:,}",
            "tokens of the stage": f"{loaded.state.tokens:,}",
            **({"rows": f"{1 - share:.1%} {kinds[0]}, {share:.1%} {kinds[1]}"} if kinds else {}),
        },
    )
    training = _facts(loaded) | {"tokenizer": identity.to_dict()}
    if (run / DATA_RECORD).is_file():
        training["data"] = read_data_record(run)["data"]
    return export, training


def ancestry(run: Path) -> dict[str, Any]:
    """What a run of `ettin adapt` has gone on from and what it has read, for the card; empty for other runs."""
    try:
        start = parse_json((run / START).read_text(encoding="utf-8"))
        name = f"{start['name']} ({start['commit']})" if start["commit"] else str(start["name"])
        objective = str(start["objective"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    facts = {"started from": name, "which was trained on": objective}
    if (run / DATA_RECORD).is_file():
        sources = read_data_record(run)["sources"]
        facts["text"] = "; ".join(size_of(source["name"], source["prefix"]) for source in sources)
    return facts


def size_of(name: str, prefix: str) -> str:
    """A source with its documents and tokens, as far as its corpus is still there."""
    try:
        manifest = read_corpus_manifest(member(Path(prefix), ".json"))
    except (DataError, OSError):
        return name
    return f"{name}, {manifest.documents:,} documents, {manifest.tokens:,} tokens"


def _facts(loaded: Loaded) -> dict[str, Any]:
    return {
        "run": codec.to_dict(loaded.config),
        "revision": loaded.revision,
        "state": loaded.state.figures(),
        "checkpoint": loaded.fingerprint,
    }


def refill(folder: Path, loaded: Loaded) -> None:
    """Put the weights of another checkpoint into a folder that ``export_checkpoint`` made of the same run in float32.

    Its model card stays that of the first. Whoever has the earlier weights open keeps them.
    """
    kind = read_folder_config(folder).kind
    tensors = to_huggingface(loaded.tensors, loaded.config.model, kind)
    staging = folder / f".{WEIGHTS}.incomplete"
    save_weights(staging, tensors, huggingface_shapes(loaded.config.model, kind), torch.float32, flush=False)
    os.replace(staging, folder / WEIGHTS)
    training = parse_json((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    write_json(folder / TRAINING_FILE, training | _facts(loaded))


def is_exported(checkpoint: Checkpoint, folder: Path, dtype: StoredType, objective: Objective) -> bool:
    """Whether a folder is the export of a checkpoint; raises CheckpointError when it is there and is something else."""
    if not folder.exists():
        return False
    try:
        origin = parse_json((folder / TRAINING_FILE).read_text(encoding="utf-8"))["checkpoint"]
        fields = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        found = (origin, fields["dtype"], fields[OBJECTIVE_FIELD])
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    wanted = (fingerprint_of(checkpoint), dtype, objective.name)
    if found != wanted or not (folder / PARITY_FILE).exists():
        raise CheckpointError(
            f"{folder} exists and is no {dtype} export of {checkpoint.path} as {kind_of(objective)}; give another "
            "folder or remove it"
        )
    return True


def accepted_tokenizer(
    loaded: Loaded, given: Path, say: Callable[[str], None]
) -> tuple[Path, TokenizerIdentity]:
    """The tokenizer.json given for an export, itself or its folder, and its identity: as trained with, else its own.

    Raises DataError for another tokenizer than that of the training.
    """
    path = given / TOKENIZER if given.is_dir() else given
    found, trained = read_identity(path), loaded.tokenizer
    remedy = f"give the tokenizer.json that {loaded.checkpoint.path.parent.parent} was trained with by --tokenizer"
    if trained is None:
        say(compare_tokenizers(found, None, str(loaded.checkpoint.path), remedy))
    elif said := compare_tokenizers(trained, found, str(path), remedy):
        say(said)
    return path, trained or found


def export_all(
    run: Path,
    folder: Path,
    dtype: StoredType,
    tokenizer: Path | None,
    say: Callable[[str], None],
    kind: Kind | None = None,
) -> Iterator[Path]:
    """Every checkpoint of a run as ``folder``/REVISION, oldest first; those that are there are left alone."""
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise CheckpointError(f"{run} has no checkpoints; is it the folder given to --run?")
    for listed in checkpoints:
        checkpoint = find(run, listed.step)
        _, config = stored_run(checkpoint)
        target = folder / f"{REVISIONS[config.stage]}{checkpoint.step}"
        made = export_checkpoint(checkpoint, target, dtype, tokenizer, say, kind)
        say(f"{target}: {'written' if made else 'there already'}")
        yield target
