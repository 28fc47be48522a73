"""Which checkpoints may go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from megatron_ettin.errors import CheckpointError
from megatron_ettin.run_folder import Checkpoint, delete, list_checkpoints, read_numbers

Reason = Literal["tokens", "steps", "clock", "signal", "end"]
"""Why a checkpoint was saved."""

FOR_RESTART: frozenset[str] = frozenset({"clock", "signal"})
"""Reasons that say nothing about the run's course: such checkpoints serve a restart only."""


def expendable(checkpoints: Sequence[tuple[Checkpoint, str]], keep: int) -> list[Checkpoint]:
    """The checkpoints to delete: of those for a restart all but the newest ``keep``, never the newest of all.

    ``checkpoints`` are (checkpoint, reason), oldest first; ``keep`` 0 keeps everything.
    """
    if keep <= 0:
        return []
    restart = [checkpoint for checkpoint, reason in checkpoints[:-1] if reason in FOR_RESTART]
    newest_counts = 1 if checkpoints and checkpoints[-1][1] in FOR_RESTART else 0
    return restart[: max(0, len(restart) + newest_counts - keep)]


def thin_out(run: Path, keep: int) -> list[Checkpoint]:
    """Delete what ``expendable`` names. Only the one writer of a run may call this, on one rank."""
    known = []
    for checkpoint in list_checkpoints(run):
        try:
            reason = str(read_numbers(checkpoint).get("reason"))
        except (CheckpointError, OSError):
            reason = "unreadable"
        known.append((checkpoint, reason))
    gone = expendable(known, keep)
    for checkpoint in gone:
        delete(checkpoint)
    return gone
