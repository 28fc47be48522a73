"""What a start would find in the folder of a run, told from names, sizes and states: without torch and the tensors.

The start itself, ``ettin check`` and ``ettin status`` ask here, so that they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.checkpoint.manifest import check_sizes, read_manifest
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config import codec
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.observe.records import last_recorded_step
from megatron_ettin.run_folder import (
    CHECKPOINTS,
    Checkpoint,
    checkpoints_of,
    furthest_save,
    list_checkpoints,
    read_numbers,
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search."""

    checkpoint: Checkpoint | None
    """The newest whole checkpoint; None when there is none."""
    skipped: tuple[tuple[Checkpoint, str], ...]
    """Newer ones that are not whole, each with the reason."""


def foresee(run: Path) -> Found:
    """The checkpoint that a start would go on from as far as that tells, and those that it would set aside.

    Raises CheckpointError where a start would be refused, OSError when that cannot be read.
    """
    skipped: list[tuple[Checkpoint, str]] = []
    for checkpoint in reversed(list_checkpoints(run)):
        try:
            check_sizes(checkpoint.path, read_manifest(checkpoint.path))
            stored_run(checkpoint)
        except DamagedError as error:
            skipped.append((checkpoint, str(error)))
        else:
            return Found(checkpoint=checkpoint, skipped=tuple(skipped))
    found = Found(checkpoint=None, skipped=tuple(skipped))
    refuse_to_begin_again(run, found)
    return found


def refuse_to_begin_again(run: Path, found: Found) -> None:
    """Raise CheckpointError where no whole checkpoint was ``found`` in a run that was saved further than step 0.

    Without its ``checkpoints/`` what it has recorded counts too: a run makes that folder before its first step.
    """
    gone = not checkpoints_of(run).is_dir()
    step = max(furthest_save(run), last_recorded_step(run) if gone else 0)
    if found.checkpoint is not None or not step:
        return
    reasons = "; ".join(f"{checkpoint.path.name}: {reason}" for checkpoint, reason in found.skipped)
    why = f"its {CHECKPOINTS}/ is gone" if gone else reasons or "no whole checkpoint is left"
    raise CheckpointError(
        f"{run} was at step {step} and would begin at step 0: {why}; restore {checkpoints_of(run)} from a copy, "
        "or begin again with --start-over, which keeps what is there under another name"
    )


def stored_run(checkpoint: Checkpoint) -> tuple[TrainState, RunConfig]:
    """The state and the configuration in a verified checkpoint.

    Raises DamagedError when it holds none, CheckpointError when they are those of another version.
    """
    numbers = read_numbers(checkpoint)
    state, config = numbers.get("state"), numbers.get("config")
    if not isinstance(state, dict) or not isinstance(config, dict):
        raise DamagedError(f"{checkpoint.path}: state.json holds no state and configuration of a run")
    try:
        return TrainState.from_dict(state), codec.run_from_dict(config)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path}: state.json is not of this version: {error}; go on with the version that wrote it"
        ) from error
