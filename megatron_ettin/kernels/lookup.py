"""Embedding lookup whose gradient goes straight into the weight's buffer: rows that occur, and no others."""

# T tokens, H hidden, V vocabulary rows

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_ettin.kernels.linear import no_gradient


def look_up(ids_T: Tensor, weight_VH: Tensor, buffer_VH: Tensor, shared: bool) -> Tensor:
    """Rows of the weight, [T, H]; in the backward pass their gradients are added to the buffer.

    `shared`: the vocabulary projection of the same pipeline stage returns the gradient of the weight, and this nothing.
    """
    rows_TH: Tensor = _LookUp.apply(ids_T, weight_VH, buffer_VH, shared)  # type: ignore[no-untyped-call]
    return rows_TH


class _LookUp(torch.autograd.Function):
    """Keeps the ids alone."""

    @staticmethod
    def forward(ctx: Any, ids_T: Tensor, weight_VH: Tensor, buffer_VH: Tensor, shared: bool) -> Tensor:
        """Rows of the weight, [T, H]."""
        ctx.save_for_backward(ids_T)
        ctx.weight_VH, ctx.buffer_VH, ctx.shared = weight_VH, buffer_VH, shared
        return weight_VH.index_select(0, ids_T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Adds the gradient [T, H] to the rows of the buffer; a row that occurs twice gets both."""
        (ids_T,) = ctx.saved_tensors
        ctx.buffer_VH.index_add_(0, ids_T, gradients[0].to(ctx.buffer_VH.dtype))
        return None, None if ctx.shared else no_gradient(ctx.weight_VH), None, None
