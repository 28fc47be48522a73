"""The end of an adaptation: the Hugging Face folder, proven against transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from megatron_ettin.checkpoint.load import find
from megatron_ettin.export.huggingface import StoredType
from megatron_ettin.export.parity import import_models
from megatron_ettin.export.runs import export_checkpoint
from megatron_ettin.run_folder import EXPORT

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Variables by which a process knows that it is one of several."""


def export_end(run: Path, dtype: StoredType, say: Callable[[str], None]) -> Path:
    """Export the newest checkpoint of a finished run, once. The first rank calls this after it has left the others.

    Raises CheckpointError when the logits differ or the folder holds something else.
    """
    for name in RANKS:
        os.environ.pop(name, None)  # the comparison is made by this process alone
    import_models()
    folder = run / EXPORT
    made = export_checkpoint(find(run), folder, dtype, say=say)
    say(f"{folder}: {'exported, its logits equal those of transformers' if made else 'exported already'}")
    return folder
