"""Work that several ranks do for one checkpoint: all go on, or all stop with the same error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from megatron_ettin.errors import (
    CheckpointError,
    ConfigError,
    DamagedError,
    DataError,
    EttinError,
    OwnershipError,
    TrainingError,
)

Result = TypeVar("Result")
ASK_EVERY = 0.2
"""Seconds between two questions whether another rank is done."""

_KINDS: dict[str, type[EttinError]] = {
    kind.__name__: kind
    for kind in (CheckpointError, ConfigError, DamagedError, DataError, OwnershipError, TrainingError)
}


def rank_and_size() -> tuple[int, int]:
    """Rank and number of ranks; (0, 1) outside a process group."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def everywhere(work: Callable[[], Result]) -> list[Result]:
    """Run ``work`` on every rank and return all results, in rank order, on each.

    When it fails anywhere, every rank raises the error of the first rank that failed, as one a user can act upon.
    One small exchange of objects.
    """
    rank, size = rank_and_size()
    error: Exception | None = None
    failed: tuple[str, str] | None = None
    result: Result | None = None
    try:
        result = work()
    except Exception as caught:  # carried to every rank and raised there
        error, kind = caught, type(caught).__name__
        failed = (kind, str(error)) if kind in _KINDS else (CheckpointError.__name__, f"{kind}: {error}")
    outcomes: list[tuple[tuple[str, str] | None, Result | None]] = [(failed, result)]
    if size > 1:
        gathered: list[tuple[tuple[str, str] | None, Result | None] | None] = [None] * size
        torch.distributed.all_gather_object(gathered, outcomes[0])
        outcomes = [outcome for outcome in gathered if outcome is not None]
    for number, (failure, _) in enumerate(outcomes):
        if failure:
            kind, message = failure
            raise _KINDS[kind](message if number == rank else f"rank {number}: {message}") from error
    return [outcome for _, outcome in outcomes]  # type: ignore[misc]


def on_first(work: Callable[[], Result]) -> Result:
    """Run ``work`` on the first rank; every rank gets its result, or its error."""
    rank, _ = rank_and_size()
    return everywhere(lambda: work() if rank == 0 else None)[0]  # type: ignore[return-value]


def ahead_of_all(work: Callable[[], Result]) -> Result:
    """As ``on_first``, for work that may take longer than a collective waits: the others ask the job's store meanwhile.

    No collective is begun before the work is done. A first rank that dies ends the others with their launcher, or with
    the store.
    """
    rank, size = rank_and_size()
    if size == 1:
        return work()
    store, done = torch.distributed.distributed_c10d._get_default_store(), "ahead-of-all/done"
    kept: list[Result] = []
    error: Exception | None = None
    if rank == 0:
        try:
            kept.append(work())
        except Exception as caught:  # raised on every rank below
            error = caught
        store.set(done, "")
    while not store.check([done]):
        time.sleep(ASK_EVERY)

    def outcome() -> Result:
        if error is not None:
            raise error
        return kept[0]

    result = on_first(outcome)
    if rank == 0:
        store.delete_key(done)  # every rank has seen it: the next work begins anew
    return result


def everywhere_own(work: Callable[[], Result]) -> Result:
    """Run ``work`` on every rank and return each its own result; an error is raised on all."""
    kept: list[Result] = []
    everywhere(lambda: kept.append(work()))
    return kept[0]
