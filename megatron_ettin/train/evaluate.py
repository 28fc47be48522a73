"""Held-out loss while training: the same schedule without a backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from megatron_ettin.batch import Batch
from megatron_ettin.train.parts import Parts
from megatron_ettin.train.step import forward_backward


def held_out_loss(parts: Parts, batches: Sequence[Batch]) -> float:
    """Mean loss over the labels of ``batches``, in nats, equal on every rank; nan without labels.

    Every data rank takes a contiguous part; the result depends on the layout by rounding only.
    """
    rank, size = parts.groups.data.rank, parts.groups.data.size
    bounds = [len(batches) * part // size for part in range(size + 1)]
    mine = batches[bounds[rank] : bounds[rank + 1]]
    sums = torch.zeros(parts.sources, 2, dtype=torch.float64, device=parts.groups.device.torch_device)
    if mine:
        for chunk in parts.chunks:
            chunk.eval()
        with torch.no_grad():
            sums += forward_backward(parts, mine, step=0, forward_only=True)
        for chunk in parts.chunks:
            chunk.train()
    sums *= float(parts.groups.tensor.is_first)
    if parts.groups.world.size > 1:
        torch.distributed.all_reduce(sums)
    total, count = sums.sum(dim=0).tolist()
    return total / count if count else math.nan
