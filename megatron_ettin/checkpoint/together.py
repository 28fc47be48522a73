"""Work that several ranks do for one checkpoint: all go on, or all stop with the same error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from megatron_ettin.errors import CheckpointError, EttinError

Result = TypeVar("Result")


def rank_and_size() -> tuple[int, int]:
    """Rank and number of ranks; (0, 1) outside a process group."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def everywhere(work: Callable[[], Result]) -> list[Result]:
    """Run ``work`` on every rank and return all results, in rank order, on each.

    When it fails anywhere, every rank raises the error of the first rank that failed. One small exchange of objects.
    """
    rank, size = rank_and_size()
    error: Exception | None = None
    result: Result | None = None
    try:
        result = work()
    except Exception as caught:  # carried to every rank and raised there
        error = caught
    outcomes: list[tuple[str, Result | None]] = [(_message(error), result)]
    if size > 1:
        gathered: list[tuple[str, Result | None] | None] = [None] * size
        torch.distributed.all_gather_object(gathered, outcomes[0])
        outcomes = [outcome for outcome in gathered if outcome is not None]
    for number, (message, _) in enumerate(outcomes):
        if message:
            raise CheckpointError(message if number == rank else f"rank {number}: {message}") from error
    return [outcome for _, outcome in outcomes]  # type: ignore[misc]


def _message(error: Exception | None) -> str:
    if error is None:
        return ""
    return str(error) if isinstance(error, EttinError) else f"{type(error).__name__}: {error}"


def on_first(work: Callable[[], Result]) -> Result:
    """Run ``work`` on the first rank; every rank gets its result, or its error."""
    rank, _ = rank_and_size()
    return everywhere(lambda: work() if rank == 0 else None)[0]  # type: ignore[return-value]


def everywhere_own(work: Callable[[], Result]) -> Result:
    """Run ``work`` on every rank and return each its own result; an error is raised on all."""
    kept: list[Result] = []
    everywhere(lambda: kept.append(work()))
    return kept[0]
