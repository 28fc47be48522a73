"""Models under evaluation: runs, exports, hub names and any transformers folder, and which kind each of them is."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.evaluate.suite import exported
from megatron_ettin.evaluate.suites.local import hashed
from megatron_ettin.export.config_json import ARCHITECTURES, OFFSET_FIELD
from megatron_ettin.export.hub import is_hub_name, snapshot
from megatron_ettin.export.huggingface import read_fields, read_folder_config
from megatron_ettin.export.runs import TRAINING_FILE
from megatron_ettin.export.weights import StoredTensors
from megatron_ettin.typed_json import parse_json

Kind = Literal["encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder"]

WEIGHTS = ("*.safetensors",)
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
CROSSED_NAME = "enc-from-dec"
"""Part of the names of published encoders that predict one position earlier; their config.json does not say so."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model, as a folder that transformers reads."""

    name: str
    """In tables."""
    source: str
    """What the user gave."""
    folder: Path
    kind: Kind
    label_offset: int
    """Where the prediction of token i is read: i + offset."""
    ours: bool
    """ModernBERT's or Ettin's architecture, which our own engine computes."""
    fingerprint: str
    """Changes with any byte of weights, config and tokenizer."""
    point: Mapping[str, Any] = field(default_factory=dict)
    """Where it stands on a curve of checkpoints; empty outside of one."""

    @property
    def causal(self) -> bool:
        """Whether the model sees the left of a token only."""
        return self.kind.startswith("decoder")

    def facts(self) -> dict[str, Any]:
        """For results."""
        facts = {
            "source": self.source,
            "kind": self.kind,
            "label_offset": self.label_offset,
            "ours": self.ours,
            "fingerprint": self.fingerprint,
        }
        return facts | ({"point": dict(self.point)} if self.point else {})


@contextlib.contextmanager
def opened_subjects(models: Mapping[str, str], mntp: Collection[str] = ()) -> Iterator[list[Subject]]:
    """Subjects of name -> source; runs are exported for the while, hub names fetched.

    ``mntp``: names of encoders of other makers that predict a token one position before it. Raises CheckpointError,
    ConfigError.
    """
    unknown = sorted(set(mntp) - set(models))
    if unknown:
        raise ConfigError(f"--mntp names {', '.join(unknown)}, but the models are called {', '.join(models)}")
    with exported({name: str(fetched(source)) for name, source in models.items()}) as folders:
        sources = {name: models.get(name) or models[name.rpartition("-")[0]] for name in folders}
        yield [subject_of(name, sources[name], folder, name in mntp) for name, folder in folders.items()]


def fetched(source: str) -> str | Path:
    """``source`` itself, or the local folder of a hub name (OWNER/NAME or OWNER/NAME@REVISION)."""
    if not is_hub_name(source):
        return source
    return snapshot(source, ("*.json", "*.txt", "*.model", *WEIGHTS))


def subject_of(
    name: str, source: str, folder: Path, mntp: bool, *, fingerprint: str = "", point: Mapping[str, Any] | None = None
) -> Subject:
    """What is in the folder. Raises CheckpointError for one that no suite can use.

    ``fingerprint``: where it is known already, so that the weights need not be read for it.
    """
    fields = read_fields(folder)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise CheckpointError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}); copy the files of the tokenizer that the "
            "model was trained with into it"
        )
    causal = _is_causal(fields, folder)
    ours = fields.get("model_type") in {model_type for model_type, _ in ARCHITECTURES.values()}
    stated = fields.get(OFFSET_FIELD)
    if stated is None and not causal and not mntp and CROSSED_NAME in source:
        raise ConfigError(
            f"{source} looks like an encoder trained from a decoder, whose predictions stand one position earlier, and "
            f"its config.json does not say so; add --mntp {name}, or rename the folder if it predicts in place"
        )
    if mntp and (causal or stated == 0):
        found = "a decoder" if causal else "an encoder that predicts in place"
        raise ConfigError(f"--mntp {name}: {folder} is {found}")
    offset = -1 if causal or mntp else int(stated or 0)
    kind: Kind = "decoder" if causal else "encoder-from-decoder" if offset else "encoder"
    if causal and _crossed(folder):
        kind = "decoder-from-encoder"
    if ours:
        read_folder_config(folder)  # refuses what our readers refuse, with its reason
    return Subject(
        name=name, source=source, folder=folder, kind=kind, label_offset=offset, ours=ours,
        fingerprint=fingerprint or fingerprint_of(folder), point=point or {},
    )  # fmt: skip


def _is_causal(fields: Mapping[str, Any], folder: Path) -> bool:
    """Encoders predict masked tokens, decoders the next: the class in config.json says which."""
    classes = fields.get("architectures") or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes):
        return True
    if any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes):
        return False
    raise CheckpointError(
        f"{folder}/config.json: architectures is {classes}; the suites take masked-language models (...ForMaskedLM) "
        "and causal ones (...ForCausalLM). A fine-tuned or sequence-to-sequence model has no such head: give the model "
        "that it was made from"
    )


def _crossed(folder: Path) -> bool:
    """Whether the training that made a folder of ours was a cross-objective one."""
    path = folder / TRAINING_FILE
    try:
        return bool(parse_json(path.read_text(encoding="utf-8"))["run"]["stage"] == "cross")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it, or export the run again") from error


def fingerprint_of(folder: Path) -> str:
    """sha256 over the hashes of weights, config and tokenizer. Reads the weights once. Raises CheckpointError."""
    weights = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    if not weights:
        raise CheckpointError(
            f"{folder} has no .safetensors weights; pickles (.bin, .pt) could run code and are never opened"
        )
    for path in weights:
        StoredTensors([path])  # a header that lies is refused by name, before anything is loaded
    texts = [path for name in ("config.json", *TOKENIZERS) if (path := folder / name).is_file()]
    together = "".join(f"{path.name} {hashed(path)}\n" for path in [*weights, *texts])
    return hashlib.sha256(together.encode()).hexdigest()
