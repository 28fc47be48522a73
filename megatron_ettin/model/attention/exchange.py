"""What context ranks send each other: the halo of a window, or all keys and values."""

# T tokens of this rank, G tokens of the stream, N heads, D head size; the axis of two holds key, value

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ettin.parallel.groups import Axis


@dataclass(frozen=True)
class Exchange:
    """Point-to-point and gathering among the context ranks, which hold consecutive slices of the stream."""

    axis: Axis

    def halo(self, kv_TN2D: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
        """The `left` tokens before and the `right` tokens after this rank's slice; zeros beyond the stream's ends.

        Sends left + right tokens at most, whatever T. Needs T >= left and T >= right.
        """
        before = kv_TN2D.new_zeros(left, *kv_TN2D.shape[1:])
        after = kv_TN2D.new_zeros(right, *kv_TN2D.shape[1:])
        self._shift(kv_TN2D[kv_TN2D.shape[0] - left :], before, step=1)
        self._shift(kv_TN2D[:right], after, step=-1)
        return before, after

    def return_halo(self, gradient_TN2D: Tensor, before: Tensor, after: Tensor) -> None:
        """Send the halo's gradients to the ranks that own the tokens, which add them: the transpose of `halo`."""
        left, right = before.shape[0], after.shape[0]
        from_after, from_before = torch.zeros_like(before), torch.zeros_like(after)
        self._shift(before, from_after, step=-1)
        self._shift(after, from_before, step=1)
        gradient_TN2D[gradient_TN2D.shape[0] - left :] += from_after
        gradient_TN2D[:right] += from_before

    def gather(self, kv_TN2D: Tensor) -> Tensor:
        """Keys and values of the whole stream, [G, N, 2, D]."""
        kv_GN2D = kv_TN2D.new_empty(kv_TN2D.shape[0] * self.axis.size, *kv_TN2D.shape[1:])
        dist.all_gather_into_tensor(kv_GN2D, kv_TN2D.contiguous(), group=self.axis.group)
        return kv_GN2D

    def scatter_sum(self, gradient_GN2D: Tensor) -> Tensor:
        """This rank's slice of the sum over the ranks: the transpose of `gather`."""
        length = gradient_GN2D.shape[0] // self.axis.size
        gradient_TN2D = gradient_GN2D.new_empty(length, *gradient_GN2D.shape[1:])
        dist.reduce_scatter_tensor(gradient_TN2D, gradient_GN2D.contiguous(), group=self.axis.group)
        return gradient_TN2D

    def _shift(self, send: Tensor, receive: Tensor, step: int) -> None:
        """Send to the rank `step` further, receive from the rank `step` before; nothing beyond the ends."""
        if send.shape[0] == 0:
            return
        operations = []
        target, origin = self.axis.rank + step, self.axis.rank - step
        for operation, tensor, rank in ((dist.isend, send.contiguous(), target), (dist.irecv, receive, origin)):
            if 0 <= rank < self.axis.size:
                peer = dist.get_global_rank(self.axis.group, rank)
                operations.append(dist.P2POp(operation, tensor, peer, self.axis.group))
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()
