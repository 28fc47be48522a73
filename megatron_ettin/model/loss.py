"""Cross-entropy of the vocabulary head without keeping logits: gradients are made where the logits are."""

# L labels (of a chunk, where it says so), H hidden, V vocabulary rows of this tensor rank (of a tile, where it says so)

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ettin.kernels import products
from megatron_ettin.kernels.linear import no_gradient
from megatron_ettin.model.logits import CrossEntropy, LogitTile, VocabularyShard, tiles_of
from megatron_ettin.parallel.groups import Axis


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
    weight's gradient is added to it in the backward pass, and the weight's own gradient is empty memory; the weight and
    its buffer may then have further rows behind those of the bias, which take no part.
    """
    loss: Tensor = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        hidden_LH, weight_VH, bias_V, label_ids_L, shard, chunk, buffer_VH, torch.is_grad_enabled()
    )
    return loss


TILE_ROWS = 128
"""Rows of the tiles in which a GPU multiplies; a chunk that ends within one wastes the rest of it."""


def chunk_labels(logit_bytes: int, vocabulary_rows: int) -> int:
    """Labels whose fp32 logits fit into that many bytes: whole tiles where there are several, at least one label."""
    labels = max(1, logit_bytes // (4 * vocabulary_rows))
    return labels - labels % TILE_ROWS if labels >= TILE_ROWS else labels


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
        """Losses [L]; with gradients those of hidden states and bias as well, the weight's here or in `backward`."""
        exact = torch.promote_types(hidden_LH.dtype, torch.float32)
        labels = hidden_LH.shape[0]
        loss_L = hidden_LH.new_empty(labels, dtype=exact)
        hidden, weight = hidden_LH, weight_VH[: bias_V.shape[0]]
        if hidden_LH.dtype == torch.bfloat16 and hidden_LH.device.type == "cpu" and products.widens():
            hidden, weight = hidden_LH.float(), products.widened("vocabulary", weight)
        learns = ctx.needs_input_grad[1]
        late = learns and buffer_VH is not None and with_gradients and 0 < labels <= chunk
        sums = _Sums(hidden, weight, bias_V, chunk if learns and not late else None)
        for first in range(0, labels, chunk):
            part = slice(first, first + chunk)
            logits_LV = shard.workspace.take(hidden[part].shape[0], weight)
            tiles, losses = tiles_of(logits_LV), CrossEntropy(shard, bias_V, label_ids_L[part])
            for tile in tiles:
                losses.multiply(tile, hidden[part], weight[tile.columns])
            loss_L[part] = losses.losses()
            for tile in reversed(tiles) if with_gradients else ():
                sums.add(part, tile, losses.gradients_(tile))
            if not late:
                shard.workspace.put_back(logits_LV)
        if with_gradients:
            ctx.shard, ctx.weight_VH = shard, weight_VH
            ctx.buffer_VH = None if buffer_VH is None else buffer_VH[: bias_V.shape[0]]
            ctx.late = (logits_LV, tiles, hidden) if late else None
            d_hidden_LH = shard.reduce_(sums.hidden_LH, dist.ReduceOp.SUM).to(hidden_LH.dtype)
            ctx.save_for_backward(d_hidden_LH, sums.d_weight_VH, sums.d_bias_V.to(bias_V.dtype))
        return loss_L

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """What `forward` made, scaled. Raises RuntimeError when labels are scaled differently."""
        (scale_L,) = gradients
        hidden_LH, d_weight_VH, bias_V = ctx.saved_tensors
        if scale_L.numel() > 1 and any(scale_L.stride()):
            raise RuntimeError("the loss of all labels must be scaled alike: sum it before anything else")
        scale = scale_L.reshape(-1)[0] if scale_L.numel() else None
        if scale is not None and scale.device.type == "cpu" and float(scale) == 1.0:  # a GPU would have to wait for it
            scale = None
        if scale is not None:
            hidden_LH, bias_V = (x.mul_(scale.to(x.dtype)) for x in (hidden_LH, bias_V))
        if not ctx.needs_input_grad[1]:
            return hidden_LH, None, bias_V, None, None, None, None, None
        if ctx.buffer_VH is None:
            weight_VH = torch.zeros_like(ctx.weight_VH) if d_weight_VH is None else d_weight_VH
            weight_VH = weight_VH if scale is None else weight_VH.mul_(scale.to(weight_VH.dtype))
            return hidden_LH, weight_VH.to(ctx.weight_VH.dtype), bias_V, None, None, None, None, None
        _add_to_buffer(ctx, d_weight_VH, scale)
        return hidden_LH, no_gradient(ctx.weight_VH), bias_V, None, None, None, None, None


def _add_to_buffer(ctx: Any, d_weight_VH: Tensor | None, scale: Tensor | None) -> None:
    """Adds the weight's gradient, or makes it there; a scale on a GPU stays there, for whoever reads it would wait."""
    if ctx.late is None:
        if d_weight_VH is not None and scale is None:
            ctx.buffer_VH.add_(d_weight_VH)
        elif d_weight_VH is not None and scale is not None:
            ctx.buffer_VH.addcmul_(d_weight_VH, scale.to(d_weight_VH.dtype))
        return
    (logits_LV, tiles, hidden), ctx.late = ctx.late, None
    hidden = hidden if scale is None else hidden * scale
    for tile in tiles:
        products.multiply_into(ctx.buffer_VH[tile.columns], tile.logits_LV.t(), hidden, add=True)
    ctx.shard.workspace.put_back(logits_LV)


def gradient_buffer(weight: Tensor, axis: Axis) -> Tensor | None:
    """Where a whole weight's gradient is to be added, after the model has been wrapped; None: return it."""
    if axis.size > 1 or not products.fills_buffers(weight.device):
        return None
    return getattr(weight, "main_grad", None)


class _Sums:
    """Gradients that grow tile by tile and chunk by chunk.

    Those of the parameters in fp32 where there is more than one chunk. `chunk`: labels of a chunk; None leaves the
    weight's gradient to the backward pass.
    """

    def __init__(self, hidden_LH: Tensor, weight_VH: Tensor, bias_V: Tensor, chunk: int | None) -> None:
        self.input_LH, self.weight_VH = hidden_LH, weight_VH
        exact, labels = torch.promote_types(hidden_LH.dtype, torch.float32), hidden_LH.shape[0]
        self.hidden_LH = torch.empty_like(hidden_LH)
        self.d_bias_V = torch.zeros_like(bias_V, dtype=exact)
        self.d_weight_VH: Tensor | None = None
        if chunk is not None and labels:
            kind = exact if labels > chunk else weight_VH.dtype
            self.d_weight_VH = torch.empty_like(weight_VH, dtype=kind)

    def add(self, part: slice, tile: LogitTile, d_bias_V: Tensor) -> None:
        """Take the gradients of one tile of one chunk of labels: chunks come in order, tiles the last one first."""
        self.d_bias_V[tile.columns] += d_bias_V
        d_logits_LV, last = tile.logits_LV, tile.columns.stop == self.weight_VH.shape[0]
        products.multiply_into(self.hidden_LH[part], d_logits_LV, self.weight_VH[tile.columns], add=not last)
        if self.d_weight_VH is not None:
            into = self.d_weight_VH[tile.columns]
            products.multiply_into(into, d_logits_LV.t(), self.input_LH[part], add=part.start > 0)
