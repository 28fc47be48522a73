"""Loading: the newest checkpoint that is whole, verified before anything in it is interpreted."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin.checkpoint.manifest import check_sizes, hash_share, read_manifest
from megatron_ettin.checkpoint.shards import check_complete
from megatron_ettin.checkpoint.standing import Found
from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.parallel.together import everywhere, on_first, rank_and_size
from megatron_ettin.run_folder import CHECKPOINTS, Checkpoint, checkpoints_of, is_run, list_checkpoints


def verify(checkpoint: Checkpoint) -> None:
    """Check every file against the manifest; every rank calls this and hashes a share.

    Raises DamagedError on every rank with what is wrong and where; CheckpointError when it cannot be told, since a file
    cannot be read or is of a newer version.
    """
    rank, ranks = rank_and_size()

    def check() -> None:
        records = read_manifest(checkpoint.path)
        check_sizes(checkpoint.path, records)
        for name, found in hash_share(checkpoint.path, sorted(records), rank, ranks).items():
            if found != records[name]:
                raise DamagedError(f"{checkpoint.path / name} is damaged: its sha256 is not the one in the manifest")
        if rank == 0:
            check_complete(checkpoint.path, records)

    everywhere(check)


def find_newest(run: Path) -> Found:
    """The newest whole checkpoint of ``run``, and the damaged ones that were skipped on the way to it.

    Raises CheckpointError when one cannot be read: that is no reason to go back to an older one.
    """
    skipped: list[tuple[Checkpoint, str]] = []
    for checkpoint in reversed(on_first(lambda: list_checkpoints(run))):
        try:
            verify(checkpoint)
        except DamagedError as error:
            skipped.append((checkpoint, str(error)))
        else:
            return Found(checkpoint=checkpoint, skipped=tuple(skipped))
    return Found(checkpoint=None, skipped=tuple(skipped))


def find(run: Path, step: int | None = None) -> Checkpoint:
    """The verified checkpoint of ``step``, or the newest whole one.

    Raises CheckpointError when there is none, with the steps there are.
    """
    if is_run(run) and not checkpoints_of(run).is_dir():
        raise CheckpointError(f"{run} is a run, but its {CHECKPOINTS}/ is not there any more; put it back")
    if step is None:
        found = find_newest(run)
        if found.checkpoint is not None:
            return found.checkpoint
        reasons = "; ".join(f"{checkpoint.path.name}: {reason}" for checkpoint, reason in found.skipped)
        why = f" ({reasons})" if reasons else "; is it the folder given to --run?"
        raise CheckpointError(f"{checkpoints_of(run)} holds no whole checkpoint{why}")
    candidates = on_first(lambda: list_checkpoints(run))
    for checkpoint in candidates:
        if checkpoint.step == step:
            verify(checkpoint)
            return checkpoint
    steps = ", ".join(str(checkpoint.step) for checkpoint in candidates) or "none"
    raise CheckpointError(f"{checkpoints_of(run)} has no checkpoint of step {step}; steps there: {steps}")
