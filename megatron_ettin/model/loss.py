"""Cross-entropy of the vocabulary head without keeping logits: gradients are made where the logits are."""

# L labels (of a chunk, where it says so), H hidden, V vocabulary rows of this tensor rank

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.model.fused import one_kernel, softmax_gradients_, softmax_statistics
from megatron_ettin.parallel import products
from megatron_ettin.parallel.groups import Axis
from megatron_ettin.parallel.linear import no_gradient


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
class VocabularyShard:
    """The rows of the vocabulary that this tensor rank holds."""

    axis: Axis
    """The tensor ranks."""
    first_row: int
    """Token id of this rank's first row."""
    workspace: Workspace = field(default_factory=Workspace)
    """Memory for logits."""
    compiled: bool = False
    """Where there is no native kernel, compile the passes over the logits into one kernel each."""

    def cross_entropy_(self, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor) -> tuple[Tensor, Tensor]:
        """(loss of each label, gradient of the bias); leaves d loss / d logits in `logits_LV`, which come without bias.

        Three small all-reduces over the shards. A native kernel on a CPU, in fp32 whatever the type of the logits.
        """
        native = logits_LV.device.type == "cpu" and logits_LV.dtype in (torch.float32, torch.bfloat16)
        passes: type[_NativeRows | _CompiledRows | _PlainRows] = _CompiledRows if self.compiled else _PlainRows
        rows = (_NativeRows if native else passes)(self, logits_LV, bias_V, label_ids_L)
        top_L, sum_L, label_L = rows.statistics()
        highest_L = self.reduce_(top_L.clone(), dist.ReduceOp.MAX)
        self.reduce_(sum_L.mul_((top_L - highest_L).exp_()), dist.ReduceOp.SUM)
        self.reduce_(label_L, dist.ReduceOp.SUM)
        log_sum_L = sum_L.log_().add_(highest_L)
        return log_sum_L - label_L, rows.gradients_(log_sum_L)

    def reduce_(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        """Combine a tensor over the shards, in place."""
        if self.axis.size > 1:
            dist.all_reduce(x, op=operation, group=self.axis.group)
        return x


class _NativeRows:
    """The two passes by the native kernel: no copy of the logits in another type, nothing of their size but they."""

    def __init__(self, shard: VocabularyShard, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor) -> None:
        self.bias_V, self.labels_L = bias_V.float().contiguous(), label_ids_L.contiguous()
        labels, columns = logits_LV.shape
        self.statistics_3L = torch.empty(3, labels)
        self.rows = _native.LogitRows(
            logits=logits_LV.data_ptr(), bfloat16=logits_LV.dtype == torch.bfloat16, rows=labels, columns=columns,
            bias=self.bias_V.data_ptr(), labels=self.labels_L.data_ptr(), first_row=shard.first_row,
            threads=torch.get_num_threads(),
        )  # fmt: skip

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        top_L, sum_L, label_L = self.statistics_3L
        self.rows.statistics(top_L.data_ptr(), sum_L.data_ptr(), label_L.data_ptr())
        return top_L, sum_L, label_L

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        gradient_V = torch.zeros_like(self.bias_V)
        self.rows.gradients(log_sum_L.data_ptr(), gradient_V.data_ptr())
        return gradient_V


class _PlainRows:
    """The same in torch, on any device and in any type."""

    def __init__(self, shard: VocabularyShard, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor) -> None:
        exact = torch.promote_types(logits_LV.dtype, torch.float32)
        self.logits_LV, self.biased_LV = logits_LV, logits_LV.to(exact).add(bias_V.to(exact))
        self.mine_L1 = (label_ids_L >= shard.first_row) & (label_ids_L < shard.first_row + logits_LV.shape[1])
        self.mine_L1 = self.mine_L1[:, None]
        self.row_L1 = torch.where(self.mine_L1, label_ids_L[:, None] - shard.first_row, 0)

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        top_L1 = self.biased_LV.amax(dim=-1, keepdim=True)
        label_L = self.biased_LV.gather(1, self.row_L1).mul_(self.mine_L1).squeeze(1)
        return top_L1.squeeze(1), (self.biased_LV - top_L1).exp_().sum(dim=-1), label_L

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        gradient_LV = self.biased_LV.sub_(log_sum_L[:, None]).exp_()
        gradient_LV.scatter_add_(1, self.row_L1, self.mine_L1.to(gradient_LV.dtype).neg_())
        self.logits_LV.copy_(gradient_LV)
        return gradient_LV.sum(dim=0)


class _CompiledRows:
    """The same compiled: two readings of the logits for the first pass, one and a writing for the second."""

    def __init__(self, shard: VocabularyShard, logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor) -> None:
        # Every micro-batch has another number of labels: one compilation serves them all.
        for x in (logits_LV, label_ids_L):
            torch._dynamo.maybe_mark_dynamic(x, 0)
        self.inputs = (logits_LV, bias_V, label_ids_L, shard.first_row)

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = one_kernel(softmax_statistics)(*self.inputs)
        return found

    def gradients_(self, log_sum_L: Tensor) -> Tensor:
        torch._dynamo.maybe_mark_dynamic(log_sum_L, 0)
        gradient_V: Tensor = one_kernel(softmax_gradients_)(*self.inputs, log_sum_L)
        return gradient_V


def vocabulary_loss(
    hidden_LH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor,
    label_ids_L: Tensor,
    shard: VocabularyShard,
    chunk: int,
    buffer_VH: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each label in fp32, [L].

    Logits exist for `chunk` labels at a time; their gradients are made at once and only sums are kept, so that the
    backward pass costs little more. The gradient needs every label scaled alike, as by a sum. With a buffer the
    weight's gradient is added to it in the backward pass, and the weight's own gradient is empty memory.
    """
    loss: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        hidden_LH, weight_VH, bias_V, label_ids_L, shard, chunk, buffer_VH, torch.is_grad_enabled()
    )
    return loss


TILE = 128
"""Rows of the tiles in which a GPU multiplies; a chunk that ends within one wastes the rest of it."""


def chunk_labels(logit_bytes: int, vocabulary_rows: int) -> int:
    """Labels whose fp32 logits fit into that many bytes: whole tiles where there are several, at least one label."""
    labels = max(1, logit_bytes // (4 * vocabulary_rows))
    return labels - labels % TILE if labels >= TILE else labels


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_LH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor,
        label_ids_L: Tensor,
        shard: VocabularyShard,
        chunk: int,
        buffer_VH: Tensor | None,
        with_gradients: bool,
    ) -> Tensor:
        exact = torch.promote_types(hidden_LH.dtype, torch.float32)
        labels = hidden_LH.shape[0]
        loss_L = hidden_LH.new_empty(labels, dtype=exact)
        hidden, weight = _operands(hidden_LH, weight_VH)
        late = buffer_VH is not None and with_gradients and 0 < labels <= chunk
        sums = _Sums(hidden, weight, late)
        for first in range(0, labels, chunk):
            part = slice(first, first + chunk)
            logits_LV = shard.workspace.take(hidden[part].shape[0], weight)
            torch.mm(hidden[part], weight.t(), out=logits_LV)
            loss_L[part], d_bias_V = shard.cross_entropy_(logits_LV, bias_V, label_ids_L[part])
            if with_gradients:
                sums.add(part, logits_LV, d_bias_V)
            if not late:
                shard.workspace.put_back(logits_LV)
        if with_gradients:
            ctx.shard, ctx.buffer_VH, ctx.weight_VH = shard, buffer_VH, weight_VH
            ctx.late = (logits_LV, hidden) if late else None
            d_hidden_LH = shard.reduce_(sums.hidden_LH, dist.ReduceOp.SUM).to(hidden_LH.dtype)
            ctx.save_for_backward(d_hidden_LH, sums.d_weight_VH, sums.bias_gradient(bias_V))
        return loss_L

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale_L,) = gradients
        hidden_LH, d_weight_VH, bias_V = ctx.saved_tensors
        if scale_L.numel() > 1 and any(scale_L.stride()):
            raise RuntimeError("the loss of all labels must be scaled alike: sum it before anything else")
        scale = scale_L.reshape(-1)[0] if scale_L.numel() and not _is_one(scale_L) else None
        if scale is not None:
            hidden_LH, bias_V = (x.mul_(scale.to(x.dtype)) for x in (hidden_LH, bias_V))
        if ctx.buffer_VH is None:
            weight_VH = torch.zeros_like(ctx.weight_VH) if d_weight_VH is None else d_weight_VH
            weight_VH = weight_VH if scale is None else weight_VH.mul_(scale.to(weight_VH.dtype))
            return hidden_LH, weight_VH.to(ctx.weight_VH.dtype), bias_V, None, None, None, None, None
        _add_to_buffer(ctx, d_weight_VH, 1.0 if scale is None else float(scale))
        return hidden_LH, no_gradient(ctx.weight_VH), bias_V, None, None, None, None, None


def _operands(hidden_LH: Tensor, weight_VH: Tensor) -> tuple[Tensor, Tensor]:
    """Both as the products take them: bf16 in float32 where that is faster, logits included."""
    if hidden_LH.dtype == torch.bfloat16 and hidden_LH.device.type == "cpu" and products.widens():
        return hidden_LH.float(), products.widened("vocabulary", weight_VH)
    return hidden_LH, weight_VH


def _add_to_buffer(ctx: Any, d_weight_VH: Tensor | None, scale: float) -> None:
    if ctx.late is None:
        if d_weight_VH is not None:
            ctx.buffer_VH.add_(d_weight_VH, alpha=scale)
        return
    (logits_LV, hidden), ctx.late = ctx.late, None
    if logits_LV.dtype == ctx.buffer_VH.dtype:
        ctx.buffer_VH.addmm_(logits_LV.t(), hidden, alpha=scale)
    else:
        ctx.buffer_VH.add_(logits_LV.t() @ hidden, alpha=scale)
    ctx.shard.workspace.put_back(logits_LV)


def gradient_buffer(weight: Tensor, axis: Axis) -> Tensor | None:
    """Where a whole weight's gradient is to be added, on a CPU after the model has been wrapped; None: return it."""
    if weight.device.type != "cpu" or axis.size > 1:
        return None
    return getattr(weight, "main_grad", None)


def _is_one(scale_L: Tensor) -> bool:
    """Whether nothing need be scaled; asked on a CPU only, a GPU would have to wait for the answer."""
    return scale_L.device.type == "cpu" and float(scale_L.reshape(-1)[0]) == 1.0


class _Sums:
    """Gradients that grow chunk by chunk; those of the parameters in fp32 when there is more than one chunk.

    `late`: the weight's is left to the backward pass.
    """

    def __init__(self, hidden_LH: Tensor, weight_VH: Tensor, late: bool) -> None:
        self.input_LH, self.weight_VH, self.late = hidden_LH, weight_VH, late
        self.exact = torch.promote_types(hidden_LH.dtype, torch.float32)
        self.hidden_LH = torch.empty_like(hidden_LH)
        self.d_weight_VH: Tensor | None = None
        self.d_bias_V: Tensor | None = None

    def add(self, part: slice, d_logits_LV: Tensor, d_bias_V: Tensor) -> None:
        """Take the gradients of one chunk of labels."""
        torch.mm(d_logits_LV, self.weight_VH, out=self.hidden_LH[part])
        self.d_bias_V = d_bias_V if self.d_bias_V is None else self.d_bias_V.add_(d_bias_V)
        if not self.late:
            self._add_weight(part, d_logits_LV)

    def _add_weight(self, part: slice, d_logits_LV: Tensor) -> None:
        if self.d_weight_VH is None:
            self.d_weight_VH = d_logits_LV.t() @ self.input_LH[part]
            return
        self.d_weight_VH = self.d_weight_VH.to(self.exact)
        if self.exact == d_logits_LV.dtype:
            self.d_weight_VH.addmm_(d_logits_LV.t(), self.input_LH[part])
        else:
            self.d_weight_VH += d_logits_LV.t() @ self.input_LH[part]

    def bias_gradient(self, bias_V: Tensor) -> Tensor:
        """Of the bias in its own type; zeros when there was no label."""
        return torch.zeros_like(bias_V) if self.d_bias_V is None else self.d_bias_V.to(bias_V.dtype)
