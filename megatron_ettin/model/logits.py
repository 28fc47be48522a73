"""Logits of a vocabulary shard in tiles, and the two passes over them that make losses and gradients."""

# L labels, V vocabulary rows of this tensor rank; of a tile where a tile is meant; C tiles

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.kernels.kind import KernelKind
from megatron_ettin.kernels.pointwise import is_native, one_kernel, softmax_gradients_, softmax_statistics
from megatron_ettin.parallel.groups import Axis

TILE_COLUMNS = 1024
"""Vocabulary rows of a tile on a CPU: its logits are still in the cache when they are read again. Measured with 154 to
2,046 labels and hidden sizes of 256 and 768; twice as many cost a tenth of the products more."""


@dataclass
class Workspace:
    """Memory for the logits of a chunk, kept from step to step: fresh pages of that size cost as much as the sums."""

    memory: Tensor | None = None

    def take(self, labels: int, like_VH: Tensor) -> Tensor:
        """Uninitialized [L, V] of the weight's type; the memory is the caller's until it is put back."""
        needed = labels * like_VH.shape[0]
        memory, self.memory = self.memory, None
        if memory is None or memory.numel() < needed or memory.dtype != like_VH.dtype:
            memory = like_VH.new_empty(needed)
        return memory[:needed].view(labels, -1)

    def put_back(self, logits_LV: Tensor) -> None:
        """Keep the memory of logits that nobody needs any more."""
        base = logits_LV if logits_LV._base is None else logits_LV._base
        self.memory = base.view(-1)


@dataclass(frozen=True)
class LogitTile:
    """Logits of some rows of the vocabulary."""

    columns: slice
    """Which of this tensor rank's rows of the vocabulary."""
    logits_LV: Tensor
    """Contiguous; without bias. First the logits, where they are kept, then d loss / d logits."""


@dataclass(frozen=True)
class VocabularyShard:
    """The rows of the vocabulary that this tensor rank holds."""

    axis: Axis
    """The tensor ranks."""
    first_row: int
    """Token id of this rank's first row."""
    workspace: Workspace = field(default_factory=Workspace)
    """Memory for logits."""
    kernels: KernelKind = "plain"
    """What makes the passes over the logits where the extension does not."""
    keeps_logits: bool = True
    """Whether logits are written, or by own kernels their gradients alone."""

    def reduce_(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        """Combine a tensor over the shards, in place."""
        if self.axis.size > 1:
            dist.all_reduce(x, op=operation, group=self.axis.group)
        return x


def tiles_of(logits_LV: Tensor) -> list[LogitTile]:
    """The memory of all logits [L, V] cut into tiles that a CPU's cache holds; whole on a GPU and in other types.

    In bf16 the sum over tiles would be rounded at each of them.
    """
    labels, columns = logits_LV.shape
    whole = logits_LV.device.type != "cpu" or logits_LV.dtype != torch.float32
    starts = [0] if whole else range(0, max(1, columns), TILE_COLUMNS)
    flat = logits_LV.view(-1)
    return [
        LogitTile(slice(first, last), flat[first * labels : last * labels].view(labels, last - first))
        for first, last in pairwise([*starts, columns])
    ]


class CrossEntropy:
    """Losses of some labels, tile by tile: `multiply` each once, ask for `losses`, then make the `gradients_` of each.

    Three small all-reduces over the shards. A native kernel on a CPU, in fp32 whatever the type of the logits.
    """

    def __init__(self, shard: VocabularyShard, bias_V: Tensor, label_ids_L: Tensor) -> None:
        self.shard, self.bias_V, self.label_ids_L = shard, bias_V, label_ids_L
        self.passes: dict[int, Passes | _PassesWithoutLogits] = {}
        self.statistics: list[tuple[Tensor, ...]] = []
        self.log_sum_L: Tensor | None = None

    def multiply(self, tile: LogitTile, hidden_LH: Tensor, weight_VH: Tensor) -> None:
        """Take the statistics of hidden @ weight^T, with the weight's rows of the tile; the operands must stay."""
        if self.shard.keeps_logits:
            torch.mm(hidden_LH, weight_VH.t(), out=tile.logits_LV)
            self.read(tile)
            return
        first_row, bias_V = self.shard.first_row + tile.columns.start, self.bias_V[tile.columns]
        self._take(tile, _PassesWithoutLogits(hidden_LH, weight_VH, tile, bias_V, self.label_ids_L, first_row))

    def read(self, tile: LogitTile) -> None:
        """Take the statistics of a tile's logits, which must stay as they are until its gradients are made."""
        first_row = self.shard.first_row + tile.columns.start
        kind: type[Passes] = PASSES[self.shard.kernels]
        if is_native(tile.logits_LV):
            kind = _NativePasses
        self._take(tile, kind(tile.logits_LV, self.bias_V[tile.columns], self.label_ids_L, first_row))

    def _take(self, tile: LogitTile, passes: Passes | _PassesWithoutLogits) -> None:
        self.passes[tile.columns.start] = passes
        self.statistics.append(tuple(x.view(-1, len(self.label_ids_L)) for x in passes.statistics()))

    def losses(self) -> Tensor:
        """The loss of each label [L], once all tiles of all shards have been read."""
        top_CL, sum_CL, label_CL = (torch.cat(parts) for parts in zip(*self.statistics, strict=True))
        highest_L = self.shard.reduce_(top_CL.amax(dim=0), dist.ReduceOp.MAX)
        sum_L = self.shard.reduce_(sum_CL.mul_((top_CL - highest_L).exp_()).sum(dim=0), dist.ReduceOp.SUM)
        label_L = self.shard.reduce_(label_CL.sum(dim=0), dist.ReduceOp.SUM)
        self.log_sum_L = sum_L.log_().add_(highest_L)
        return self.log_sum_L - label_L

    def are_first(self) -> Tensor:
        """Whether no other row of the vocabulary has a higher logit than the label [L], of all tiles that were read.

        Without shards: what other ranks hold is not asked.
        """
        top_CL, _, label_CL = (torch.cat(parts) for parts in zip(*self.statistics, strict=True))
        return top_CL.amax(dim=0) <= label_CL.sum(dim=0)

    def gradients_(self, tile: LogitTile) -> Tensor:
        """Turn a tile's logits into d loss / d logits; returns the gradient of its part of the bias."""
        if self.log_sum_L is None:
            raise RuntimeError("gradients are made from the sum over all tiles: ask for the losses first")
        return self.passes[tile.columns.start].gradients_(self.log_sum_L)


class _NativePasses:
    """Both passes over the logits of a tile, by the native kernel: nothing of their size is made beside them."""

    def __init__(self, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int) -> None:
        self.bias_V, self.labels_L = bias_V.float().contiguous(), label_ids_L.contiguous()
        labels, columns = logits_LV.shape
        self.statistics_3L = torch.empty(3, labels)
        self.rows = _native.LogitRows(
            logits=logits_LV.data_ptr(), bfloat16=logits_LV.dtype == torch.bfloat16, rows=labels, columns=columns,
            bias=self.bias_V.data_ptr(), labels=self.labels_L.data_ptr(), first_row=first_row,
            threads=torch.get_num_threads(),
        )  # fmt: skip

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """(highest logit, sum of exp(logit - highest), the label's logit or 0 where it is elsewhere), each [L]."""
        top_L, sum_L, label_L = self.statistics_3L
        self.rows.statistics(top_L.data_ptr(), sum_L.data_ptr(), label_L.data_ptr())
        return top_L, sum_L, label_L

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        """Turns the logits into d loss / d logits; returns the gradient of the bias [V]."""
        gradient_V = torch.zeros_like(self.bias_V)
        self.rows.gradients(log_sum_L.data_ptr(), gradient_V.data_ptr())
        return gradient_V


class _PlainPasses:
    """The same in torch, on any device and in any type."""

    def __init__(self, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int) -> None:
        exact = torch.promote_types(logits_LV.dtype, torch.float32)
        self.logits_LV, self.biased_LV = logits_LV, logits_LV.to(exact).add(bias_V.to(exact))
        self.mine_L1 = (label_ids_L >= first_row) & (label_ids_L < first_row + logits_LV.shape[1])
        self.mine_L1 = self.mine_L1[:, None]
        self.row_L1 = torch.where(self.mine_L1, label_ids_L[:, None] - first_row, 0)

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """As those of the native passes."""
        top_L1 = self.biased_LV.amax(dim=-1, keepdim=True)
        label_L = self.biased_LV.gather(1, self.row_L1).mul_(self.mine_L1).squeeze(1)
        return top_L1.squeeze(1), (self.biased_LV - top_L1).exp_().sum(dim=-1), label_L

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        """As those of the native passes."""
        gradient_LV = self.biased_LV.sub_(log_sum_L[:, None]).exp_()
        gradient_LV.scatter_add_(1, self.row_L1, self.mine_L1.to(gradient_LV.dtype).neg_())
        self.logits_LV.copy_(gradient_LV)
        return gradient_LV.sum(dim=0)


class _CompiledPasses:
    """The same compiled: two readings of the logits for the first pass, one and a writing for the second."""

    def __init__(self, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int) -> None:
        # Every micro-batch has another number of labels: one compilation serves them all.
        for x in (logits_LV, label_ids_L):
            torch._dynamo.maybe_mark_dynamic(x, 0)
        self.inputs = (logits_LV, bias_V, label_ids_L, first_row)

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """As those of the native passes."""
        found: tuple[Tensor, Tensor, Tensor] = one_kernel(softmax_statistics)(*self.inputs)
        return found

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        """As those of the native passes."""
        torch._dynamo.maybe_mark_dynamic(log_sum_L, 0)
        gradient_V: Tensor = one_kernel(softmax_gradients_)(*self.inputs, log_sum_L)
        return gradient_V


class _PassesWithoutLogits:
    """The same by own kernels for GPUs that multiply: the first leaves the tile's memory alone."""

    def __init__(
        self, hidden_LH: Tensor, weight_VH: Tensor, tile: LogitTile, bias_V: Tensor, label_ids_L: Tensor, first_row: int
    ) -> None:
        self.inputs = (hidden_LH.contiguous(), weight_VH, bias_V, label_ids_L, first_row)
        self.gradients_LV = tile.logits_LV

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """As those of the native passes, the first two of several parts of the tile, [C, L]."""
        from megatron_ettin.kernels.triton import linear_softmax

        return linear_softmax.linear_softmax_statistics(*self.inputs)

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        """Writes d loss / d logits; returns the gradient of the bias [V]."""
        from megatron_ettin.kernels.triton import linear_softmax

        return linear_softmax.linear_softmax_gradients(*self.inputs, log_sum_L, self.gradients_LV)


class _OwnPasses:
    """The same by own kernels for GPUs: one reading of the logits, then one reading and one writing."""

    def __init__(self, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int) -> None:
        self.inputs = (logits_LV, bias_V, label_ids_L, first_row)

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """As those of the native passes."""
        from megatron_ettin.kernels.triton import softmax

        return softmax.softmax_statistics(*self.inputs)

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        """As those of the native passes."""
        from megatron_ettin.kernels.triton import softmax

        return softmax.softmax_gradients_(*self.inputs, log_sum_L)


Passes = _NativePasses | _PlainPasses | _CompiledPasses | _OwnPasses
PASSES: dict[KernelKind, type[Passes]] = {"plain": _PlainPasses, "compiled": _CompiledPasses, "own": _OwnPasses}
