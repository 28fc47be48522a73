"""The run that is meant where a user names a run, a plan or a stage of a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_ettin.errors import CheckpointError
from megatron_ettin.plans.folder import recorded_stages
from megatron_ettin.run_folder import is_plan, list_checkpoints, parse_source

Say = Callable[[str], None]


def named_run(text: str, say: Say) -> tuple[Path, int | None]:
    """RUN, PLAN or PLAN/STAGE, each also with @STEP, as the folder of a run and a step (None: the newest).

    Raises as ``chosen_run`` does, and CheckpointError where no number follows the @.
    """
    folder, step = parse_source(text)
    return chosen_run(folder, say), step


def chosen_run(folder: Path, say: Say) -> Path:
    """The folder itself; of a plan the last stage that has a checkpoint, or the one that is named behind it.

    ``say`` takes the line that tells which one that is. Raises CheckpointError for a plan without a checkpoint, and for
    a stage that a plan has not.
    """
    if is_plan(folder):
        saved = [run for _, run in recorded_stages(folder) if list_checkpoints(run)]
        if not saved:
            raise CheckpointError(f"{folder} holds a plan of which nothing has been saved yet")
        say(f"{folder} holds a plan: {saved[-1]} is taken, the last stage with a checkpoint")
        return saved[-1]
    if folder.exists() or not is_plan(folder.parent):
        return folder
    stages = dict(recorded_stages(folder.parent))
    if folder.name not in stages:
        raise CheckpointError(f"{folder.parent} holds a plan without a stage {folder.name}; it has {', '.join(stages)}")
    say(f"{folder} is {stages[folder.name]}")
    return stages[folder.name]
