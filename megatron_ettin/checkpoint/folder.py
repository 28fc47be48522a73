"""Names in a run's checkpoint folder."""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import CheckpointError
from megatron_ettin.publish import write_atomically

SHARDS = "shards"
STATE = "state.json"
MANIFEST = "manifest.json"
LATEST = "LATEST"

_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.(step-\d{8,})\.(incomplete|deleted)-.*")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with the name of a checkpoint; whether it is whole is the manifest's to say."""

    path: Path
    """The folder."""
    step: int
    """Steps taken when it was saved."""


def checkpoints_of(run: Path) -> Path:
    """The folder that holds the checkpoints of ``run``."""
    return Path(run) / "checkpoints"


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` belongs."""
    return checkpoints_of(run) / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """Every published checkpoint of ``run``, oldest first; unverified."""
    folder = checkpoints_of(run)
    names = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    matches = [(path, _NAME.fullmatch(path.name)) for path in names]
    found = [Checkpoint(path=path, step=int(match.group(1))) for path, match in matches if match]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def point_latest(checkpoint: Checkpoint) -> None:
    """Write LATEST: a hint for people and scripts; loading looks at the folders themselves."""
    write_atomically(checkpoint.path.parent / LATEST, checkpoint.path.name + "\n")


def remove_leftovers(run: Path) -> None:
    """Delete what interrupted saves and deletions left. Only the one writer of a run may call this."""
    folder = checkpoints_of(run)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a damaged checkpoint so that its step can be saved again; nothing is deleted."""
    for number in range(1000):
        target = checkpoint.path.with_name(f"damaged-{checkpoint.path.name}-{number}")
        if not target.exists():
            return checkpoint.path.rename(target)
    raise CheckpointError(f"{checkpoint.path}: too many damaged copies beside it; delete the damaged-* folders")


def delete(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint so that a crash in the middle leaves no half of it under its name."""
    hidden = checkpoint.path.with_name(f".{checkpoint.path.name}.deleted-")
    with contextlib.suppress(OSError):
        checkpoint.path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def parse_source(text: str) -> tuple[Path, int | None]:
    """``RUN`` or ``RUN@step`` as a folder and a step (None: the newest)."""
    folder, mark, step = text.rpartition("@")
    if not mark or "/" in step:
        return Path(text), None
    if not step.isdigit():
        raise CheckpointError(f"{text}: after @ comes a step number, such as {folder}@1200")
    return Path(folder), int(step)
