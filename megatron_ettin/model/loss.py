"""Cross-entropy of the vocabulary head without keeping logits: gradients are made where the logits are."""

# L labels, H hidden, V vocabulary rows of this tensor rank

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ettin.parallel.groups import Axis


@dataclass(frozen=True)
class VocabularyShard:
    """The rows of the vocabulary that this tensor rank holds."""

    axis: Axis
    """The tensor ranks."""
    first_row: int
    """Token id of this rank's first row."""

    def cross_entropy_(self, logits_LV: Tensor, label_ids_L: Tensor) -> Tensor:
        """Loss of each label, [L]; leaves d loss / d logits in `logits_LV`. Three small all-reduces over the shards."""
        top_L1 = logits_LV.amax(dim=-1, keepdim=True)
        self._reduce(top_L1, dist.ReduceOp.MAX)
        mine_L = (label_ids_L >= self.first_row) & (label_ids_L < self.first_row + logits_LV.shape[1])
        row_L1 = torch.where(mine_L, label_ids_L - self.first_row, 0)[:, None]
        label_L1 = logits_LV.gather(1, row_L1).sub_(top_L1).mul_(mine_L[:, None])
        self._reduce(label_L1, dist.ReduceOp.SUM)
        sum_L1 = logits_LV.sub_(top_L1).exp_().sum(dim=-1, keepdim=True)
        self._reduce(sum_L1, dist.ReduceOp.SUM)
        logits_LV.div_(sum_L1)
        logits_LV.scatter_add_(1, row_L1, mine_L[:, None].to(logits_LV.dtype).neg_())
        return (sum_L1.log_() - label_L1).squeeze(1)

    def sum_(self, x: Tensor) -> Tensor:
        """Sum over the shards, in place."""
        self._reduce(x, dist.ReduceOp.SUM)
        return x

    def _reduce(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        if self.axis.size > 1:
            dist.all_reduce(x, op=operation, group=self.axis.group)


def vocabulary_loss(
    hidden_LH: Tensor, weight_VH: Tensor, bias_V: Tensor, label_ids_L: Tensor, shard: VocabularyShard, chunk: int
) -> Tensor:
    """Cross-entropy of each label in fp32, [L].

    Logits exist for `chunk` labels at a time; their gradients are made at once and only sums are kept, so that the
    backward pass costs nothing more. The gradient needs every label scaled alike, as by a sum.
    """
    loss: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        hidden_LH, weight_VH, bias_V, label_ids_L, shard, chunk, torch.is_grad_enabled()
    )
    return loss


def chunk_labels(logit_bytes: int, vocabulary_rows: int) -> int:
    """Labels whose fp32 logits fit into that many bytes, at least one."""
    return max(1, logit_bytes // (4 * vocabulary_rows))


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
        with_gradients: bool,
    ) -> Tensor:
        exact = torch.promote_types(hidden_LH.dtype, torch.float32)
        loss_L = hidden_LH.new_empty(hidden_LH.shape[0], dtype=exact)
        sums = _Sums(hidden_LH, weight_VH, bias_V, exact)
        for first in range(0, hidden_LH.shape[0], chunk):
            part = slice(first, first + chunk)
            logits_LV = torch.addmm(bias_V, hidden_LH[part], weight_VH.t()).to(exact)
            loss_L[part] = shard.cross_entropy_(logits_LV, label_ids_L[part])
            if with_gradients:
                sums.add(part, logits_LV)
        if with_gradients:
            ctx.save_for_backward(shard.sum_(sums.hidden_LH), *sums.of_parameters())
        return loss_L

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale_L,) = gradients
        hidden_LH, weight_VH, bias_V = ctx.saved_tensors
        if scale_L.numel() > 1 and any(scale_L.stride()):
            raise RuntimeError("the loss of all labels must be scaled alike: sum it before anything else")
        if scale_L.numel():
            scale = scale_L.reshape(-1)[0]
            hidden_LH, weight_VH, bias_V = (x.mul_(scale.to(x.dtype)) for x in (hidden_LH, weight_VH, bias_V))
        return hidden_LH, weight_VH, bias_V, None, None, None, None


class _Sums:
    """Gradients that grow chunk by chunk; those of the parameters in fp32 when there is more than one chunk."""

    def __init__(self, hidden_LH: Tensor, weight_VH: Tensor, bias_V: Tensor, exact: torch.dtype) -> None:
        self.input_LH, self.weight_VH, self.bias_V, self.exact = hidden_LH, weight_VH, bias_V, exact
        self.hidden_LH = torch.empty_like(hidden_LH)
        self.d_weight_VH: Tensor | None = None
        self.d_bias_V: Tensor | None = None

    def add(self, part: slice, d_logits_LV: Tensor) -> None:
        """Take the gradients of one chunk of labels."""
        d_logits = d_logits_LV.to(self.input_LH.dtype)
        self.hidden_LH[part] = d_logits @ self.weight_VH
        if self.d_weight_VH is None or self.d_bias_V is None:
            self.d_weight_VH = d_logits.t() @ self.input_LH[part]
            self.d_bias_V = d_logits_LV.sum(dim=0)
            return
        self.d_weight_VH = self.d_weight_VH.to(self.exact)
        if self.exact == d_logits.dtype:
            self.d_weight_VH.addmm_(d_logits.t(), self.input_LH[part])
        else:
            self.d_weight_VH += d_logits.t() @ self.input_LH[part]
        self.d_bias_V += d_logits_LV.sum(dim=0)

    def of_parameters(self) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias in their own types; zeros when there was no label."""
        if self.d_weight_VH is None or self.d_bias_V is None:
            return torch.zeros_like(self.weight_VH), torch.zeros_like(self.bias_V)
        return self.d_weight_VH.to(self.weight_VH.dtype), self.d_bias_V.to(self.bias_V.dtype)
