"""What all ranks must decide alike."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_ettin.parallel.groups import Groups


def agree_any(groups: Groups, flag: bool) -> bool:
    """True on every rank when it is true on at least one. One small all-reduce; every rank must call it."""
    return _reduce(groups, int(flag), dist.ReduceOp.MAX) > 0


def agree_all(groups: Groups, flag: bool) -> bool:
    """True on every rank when it is true on all of them. One small all-reduce; every rank must call it."""
    return _reduce(groups, int(flag), dist.ReduceOp.MIN) > 0


def agree_maximum(groups: Groups, value: int) -> int:
    """The largest of all ranks' values, on every rank."""
    return _reduce(groups, value, dist.ReduceOp.MAX)


def agree_sum(groups: Groups, value: int) -> int:
    """The sum of all ranks' values, on every rank."""
    return _reduce(groups, value, dist.ReduceOp.SUM)


def agree_same(groups: Groups, value: int) -> bool:
    """Whether all ranks hold the same value; the same answer on every rank."""
    return agree_maximum(groups, value) == -agree_maximum(groups, -value)


def raise_together(groups: Groups, error: Exception | None) -> None:
    """Raise on every rank when one has an error: its own where there is one, else a note that another rank failed.

    Call it at a point that every rank reaches; then no rank is left waiting in a collective.
    """
    failed = agree_maximum(groups, groups.world.rank + 1 if error else 0)
    if error:
        raise error
    if failed:
        raise RuntimeError(f"rank {failed - 1} failed; its own message is in its output")


def _reduce(groups: Groups, value: int, operation: dist.ReduceOp.RedOpType) -> int:
    tensor = torch.tensor([value], dtype=torch.int64, device=groups.device.torch_device)
    dist.all_reduce(tensor, op=operation, group=groups.world.group)
    return int(tensor.item())
