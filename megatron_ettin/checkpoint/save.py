"""Saving: staged, hashed, flushed, then renamed into place. A crash at any point leaves the older checkpoints alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.checkpoint.manifest import files_of, hash_share, write_manifest
from megatron_ettin.checkpoint.shards import Shards, check_complete, write_shards
from megatron_ettin.errors import CheckpointError
from megatron_ettin.parallel.together import everywhere, on_first, rank_and_size
from megatron_ettin.progress import format_count
from megatron_ettin.publish import fsync_path, fsync_tree, staging_path
from megatron_ettin.run_folder import SHARDS, STATE, Checkpoint, free_bytes, note_save, path_of


def save(
    run: Path,
    step: int,
    shards: Shards,
    numbers: dict[str, Any],
    data_group: torch.distributed.ProcessGroup,
    still_owned: Callable[[], None],
    needed: int,
) -> Checkpoint:
    """Save one checkpoint; every rank calls this with its part of the tensors and the same ``numbers``.

    ``still_owned`` is asked on the first rank before anything is published, and raises when the run has another owner.
    Raises CheckpointError on every rank when fewer than ``needed`` bytes are free, before anything is written; and when
    any of them cannot write, or a file is not there that had to be written. Then nothing is published.
    """
    # Not made with ``publish``: every step must succeed on all ranks or fail on all.
    target = path_of(run, step)
    on_first(lambda: refuse_full_disk(run, needed))
    rank, ranks = rank_and_size()
    staging = on_first(lambda: stage(target))
    try:
        everywhere(lambda: write_shards(staging / SHARDS, shards, data_group))
        on_first(lambda: (staging / STATE).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8"))
        names = on_first(lambda: files_of(staging))
        on_first(lambda: check_complete(staging, names))
        shares = everywhere(lambda: hash_share(staging, names, rank, ranks))
        records = {name: record for share in shares for name, record in share.items()}
        on_first(lambda: write_manifest(staging, records))
        on_first(lambda: publish_staged(staging, target, still_owned))
    except BaseException:
        if rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
        raise
    checkpoint = Checkpoint(path=target, step=step)
    on_first(lambda: note_save(run, checkpoint, str(numbers.get("reason", ""))))
    return checkpoint


def refuse_full_disk(run: Path, needed: int) -> None:
    """Raise CheckpointError when the disk of ``run`` has not ``needed`` bytes free."""
    if (free := free_bytes(run)) < needed:
        raise CheckpointError(
            f"{run}: a checkpoint needs {format_count(needed, 'B')} and {format_count(free, 'B')} are free; make "
            "room, then start the same command again"
        )


def stage(target: Path) -> Path:
    """An empty folder beside ``target`` for what is written. Raises CheckpointError when that checkpoint is there."""
    if target.exists():
        raise CheckpointError(f"{target} exists already; checkpoints are never overwritten")
    staging = staging_path(target)
    (staging / SHARDS).mkdir(parents=True)
    return staging


def publish_staged(staging: Path, target: Path, still_owned: Callable[[], None]) -> None:
    """Flush what is written and give it its name, unless ``still_owned`` raises."""
    fsync_tree(staging)
    still_owned()
    os.rename(staging, target)
    fsync_path(target.parent)
