"""Main weights and moments of whole tensors, of which the data ranks hold parts: what checkpoints store and read.

A bucket is cut at equal distances among the data ranks. A tensor that lies on one of them is stored from where it is.
One that a cut goes through is put together, in host memory, on the rank that holds most of it. No rank holds more of
the optimizer's state than its share and those tensors.
"""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBuffer
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import Parameter

from megatron_ettin.cost.cuts import Part, parts_of, storing_rank


def parts_in(buffer: _ParamAndGradBuffer, parameter: Parameter, ranks: int) -> list[Part]:
    """The parts of a parameter's state on the data ranks. Padding at the ends of buckets counts among the elements."""
    first, stop, number = buffer.param_index_map[parameter]
    bucket = buffer.buckets[number]
    return parts_of(first - bucket.offset, stop - bucket.offset, bucket.grad_data.numel() // ranks)


def put_together(
    held: dict[str, Tensor] | None, parts: Sequence[Part], elements: int, group: ProcessGroup
) -> dict[str, Tensor] | None:
    """Whole flat tensors by name on the rank that stores them, None elsewhere. All ranks of ``parts`` call this.

    ``held``: this rank's parts by name, None where it has none. Costs the storing rank host memory for the whole, and
    device memory for another rank's part.
    """
    rank, target = dist.get_rank(group), storing_rank(parts)
    if held is None:
        return None
    if len(parts) == 1:
        return held
    whole: dict[str, Tensor] | None = None
    if rank == target:
        whole = {name: torch.empty(elements, dtype=tensor.dtype) for name, tensor in held.items()}
    for name, own in held.items():
        for part in parts:
            if part.rank == target:
                if whole is not None:
                    whole[name][part.start : part.stop].copy_(own)
            elif whole is not None:
                received = own.new_empty(part.stop - part.start)
                _pass(dist.irecv, received, part.rank, group)
                whole[name][part.start : part.stop].copy_(received)
            elif part.rank == rank:
                _pass(dist.isend, own.contiguous(), target, group)
    return whole


def _pass(operation: object, tensor: Tensor, rank: int, group: ProcessGroup) -> None:
    """Send to, or receive from, another rank of the group; in a batch, which uses the group's own communicator."""
    peer = dist.get_global_rank(group, rank)
    for work in dist.batch_isend_irecv([dist.P2POp(operation, tensor, peer, group)]):  # type: ignore[arg-type]
        work.wait()
