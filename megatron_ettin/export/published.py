"""A model as a folder that appears whole, with the proof of its logits, or not at all."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.export.huggingface import Export, open_folder, write_folder
from megatron_ettin.export.parity import compare, packed_logits, write_parity
from megatron_ettin.export.tokenizer_files import write_json
from megatron_ettin.ownership import STAGING, owned, remove_dead_staging
from megatron_ettin.publish import publish


def publish_export(folder: Path, export: Export, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Publish a model as ``folder``; ``records`` are further JSON files, name -> content.

    What a killed export to it has left is removed. Raises CheckpointError when transformers does not compute the
    logits that we compute from the same folder, ConfigError for a folder that is there, OwnershipError when another
    process is writing it; then nothing is published.
    """
    remove_dead_staging(folder)
    with publish(folder) as staging, owned(staging, STAGING, shlex.join(sys.orig_argv), remove=True):
        write_folder(staging, export)
        for name, content in records.items():
            write_json(staging / name, content)
        stored = open_folder(staging).tensors
        write_parity(staging, compare(staging, packed_logits(export.model, export.objective, stored)))
