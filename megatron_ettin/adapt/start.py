"""The model that is gone on from: its shape, objective, tokenizer and roles, read and looked through before anything
is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ettin.config.codec import to_dict
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.config.published import decayed_hint, published
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.export.hub import is_hub_name, snapshot
from megatron_ettin.export.huggingface import open_folder, read_folder_config
from megatron_ettin.export.runs import REVISIONS, TRAINING_FILE
from megatron_ettin.regular_files import read_regular
from megatron_ettin.run_folder import TOKENIZER, is_run
from megatron_ettin.tokenizer.identity import read_tokenizer, vocabulary_of
from megatron_ettin.tokenizer.special_tokens import ROLE_NAMES, find_roles, read_roles
from megatron_ettin.typed_json import FieldError, decode, load_json, parse_json

SPECIAL_TOKENS_MAP = "special_tokens_map.json"
STAND_INS = {"cls": "bos", "sep": "eos"}
"""Roles that another one takes where a model has no token of their own."""
FALLEN = 0.1
"""Share of the peak below which a rate counts as fallen."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A model to go on from, as a run keeps it on record: the run goes on without the model's files."""

    name: str
    """As the user gave it: a folder, OWNER/NAME or OWNER/NAME@REVISION."""
    folder: str
    """Where its files are."""
    commit: str = ""
    """Of a hub name."""
    model: ModelConfig
    """Its shape, rotary bases, window, vocabulary and longest text."""
    objective: ObjectiveName
    """What it was trained on."""
    special: dict[str, str] = field(default_factory=dict)
    """Role -> token where tokenizer_config.json is silent: by special_tokens_map.json, or by the ids in config.json."""
    peak_rate: float = 0.0
    """Learning rate at the top of its training; 0: not known."""
    hint: str = ""
    """Which weights go on better, where these have been trained to the end of their schedule."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(to_dict(self)) | {"special": dict(self.special)}


def read_record(path: Path) -> Start | None:
    """What ``to_dict`` gave, from a file; None where there is no file. Raises CheckpointError."""
    try:
        return decode(Start, load_json(read_regular(path)), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, FieldError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); restore it, or give another --run folder to begin anew"
        ) from error


def read_start(name: str) -> Start:
    """A folder or a hub name as a start; every tensor is looked through for NaN and infinity.

    Raises CheckpointError for another architecture, weights that are pickles or not finite, a hub that does not
    answer; DataError for a missing or wrong tokenizer.
    """
    folder = snapshot(name) if is_hub_name(name) else Path(name)
    if not folder.is_dir():
        raise CheckpointError(f"{name}: no such folder, and no hub name (OWNER/NAME or OWNER/NAME@REVISION)")
    if is_run(folder):
        raise CheckpointError(
            f"{name} is the folder of a run; export it with `ettin convert {name} FOLDER` and give that, or go on in "
            f"a later stage with `ettin pretrain ... --from {name}`"
        )
    config = read_folder_config(folder)
    content = tokenizer_of(folder, config.model)
    tensors = open_folder(folder).tensors
    for tensor in tensors:
        tensors[tensor]  # looks through it
    hub = not Path(name).exists()
    model = to_dict(config.model) | {"size": name.partition("@")[0].rpartition("/")[2] or config.model.size}
    entry, training = published(name), training_of(folder)
    return Start(
        name=name,
        folder=str(folder.resolve()),
        commit=folder.name if hub else "",
        model=ModelConfig(**model) if hub else config.model,
        objective=config.objective,
        special=roles_elsewhere(folder, content),
        peak_rate=entry.peak_rate if entry else training_peak(training),
        hint=decayed_hint(name) or own_hint(training),
    )


def tokenizer_of(folder: Path, model: ModelConfig) -> dict[str, Any]:
    """The content of the folder's tokenizer.json. Raises DataError where there is none or its ids do not fit."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise DataError(
            f"{folder} has no {TOKENIZER}; save the tokenizer that the model was trained with there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER) in transformers writes it)"
        )
    content = read_tokenizer(path)
    last = max(vocabulary_of(content).values(), default=-1)
    if last >= model.vocabulary:
        raise DataError(
            f"{path} has ids up to {last}, the model beside it a vocabulary of {model.vocabulary}; "
            "give the tokenizer that it was trained with"
        )
    return content


def roles_elsewhere(folder: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Role -> token for roles that tokenizer_config.json leaves open.

    special_tokens_map.json speaks first, then the ids in config.json, as far as the tokenizer has them.
    """
    ids = vocabulary_of(content)
    named = read_roles(folder / TOKENIZER)
    taken = find_roles(lambda token: ids.get(token, -1), named, {}, str(folder / TOKENIZER))
    tokens = {i: token for token, i in ids.items()}
    stated, fields = _object(folder / SPECIAL_TOKENS_MAP), _object(folder / "config.json")
    found = {}
    for role in (role for role, name in ROLE_NAMES.items() if name not in taken):
        for word in (role, *([STAND_INS[role]] if role in STAND_INS else [])):
            token = stated.get(f"{word}_token")
            token = token.get("content") if isinstance(token, dict) else token
            number = fields.get(f"{word}_token_id")
            choice = token if token in ids else tokens.get(number) if type(number) is int else None
            if choice is not None:
                found[role] = choice
                break
    return found


def training_of(folder: Path) -> dict[str, Any]:
    """What an export of ours says of its training; empty for the folders of others."""
    return _object(folder / TRAINING_FILE)


def training_peak(training: Mapping[str, Any]) -> float:
    """The peak rate of an export of ours; 0: not known."""
    try:
        return float(training["run"]["schedule"]["peak_rate"])
    except (KeyError, TypeError, ValueError):
        return 0.0


def own_hint(training: Mapping[str, Any]) -> str:
    """The hint for an export of ours whose rate has fallen, as a decay's and a cross-objective run's; else empty."""
    try:
        schedule, stage = training["run"]["schedule"], training["run"]["stage"]
        fallen = schedule["shape"] != "warmup_stable" and float(schedule["end_factor"]) < FALLEN
        if not (fallen and training["state"]["finished"]):
            return ""
    except (KeyError, TypeError, ValueError):
        return ""
    return (
        f"its training record says that it is the end of a stage {stage!r}; weights from before the rate fell go on "
        f"better: an export named {REVISIONS['extension']}{{step}} or {REVISIONS['pretrain']}{{step}} of that model "
        "(`ettin convert --all`)"
    )


def _object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none. Raises CheckpointError for a damaged one."""
    try:
        content = parse_json(read_regular(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch the folder again") from error
    return content if isinstance(content, dict) else {}
