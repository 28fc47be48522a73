"""Models of the Hugging Face hub as local folders. What could run is not even fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.errors import CheckpointError, first_line
from megatron_ettin.run_folder import is_plan

HUB_NAME = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""OWNER/NAME or OWNER/NAME@REVISION."""
MODEL_FILES = (
    "config.json", "generation_config.json", "training.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "*.safetensors", "*.safetensors.index.json",
)  # fmt: skip
"""What makes a model of ours; weights that are pickles are left where they are."""


def is_hub_name(source: str) -> bool:
    """Whether ``source`` has the form of a hub name and is no path on this machine, nor a stage of a plan on it."""
    path = Path(source.partition("@")[0])
    there = Path(source).exists() or path.exists() or is_plan(path.parent)
    return HUB_NAME.fullmatch(source) is not None and not there


def snapshot(source: str, patterns: Sequence[str] = MODEL_FILES) -> Path:
    """The files of a hub name that match, in the hub's cache; the folder's name is that of the commit.

    The client of the hub takes its token from HF_TOKEN, its cache from HF_HUB_CACHE, its server from HF_ENDPOINT, and
    asks nobody under HF_HUB_OFFLINE. Raises CheckpointError.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client raises many kinds, all of them for the user
        raise CheckpointError(f"{source} is no folder here, and the hub does not give it ({reason(error)})") from error


def reason(error: Exception) -> str:
    """Why the hub gave nothing, and the remedy, in one line."""
    from huggingface_hub import errors

    remedies = {
        errors.GatedRepoError: "it is given to those who accepted its terms: accept them on its page and set HF_TOKEN",
        errors.RevisionNotFoundError: "it has no such revision: leave out @REVISION, or name one that its page lists",
        errors.RepositoryNotFoundError: "it has no such model, or not for this token: check the name, or set HF_TOKEN",
        errors.LocalEntryNotFoundError: "neither the hub nor its cache answers: check the network and "
        "HF_HUB_OFFLINE, or give a folder that holds the model",
    }
    if known := next((text for kind, text in remedies.items() if isinstance(error, kind)), ""):
        return known
    return f"{first_line(error)}: check the name and the network, or give a folder that holds the model"
