"""Rotary position embedding of queries and keys, in place."""

# T tokens, N heads, D head size; the axis of three holds query, key, value

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Rotate(torch.autograd.Function):
    """Rotates pairs (i, i + D/2) of queries and keys by the position's angle; values stay. Keeps no copy."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, heads: int, cosine_TD: Tensor, sine_TD: Tensor, turn: Callable[..., None]
    ) -> Tensor:
        """The projection itself, turned."""
        ctx.heads, ctx.turn = heads, turn
        ctx.save_for_backward(cosine_TD, sine_TD)
        turn(split(qkv, heads), cosine_TD, sine_TD)
        ctx.mark_dirty(qkv)
        return qkv

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient turned back."""
        cosine_TD, sine_TD = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        ctx.turn(split(gradient, ctx.heads), cosine_TD, -sine_TD)
        return gradient, None, None, None, None


def split(qkv: Tensor, heads: int) -> Tensor:
    """The view [T, N, 3, D] of a projection [T, 1, N * 3 * D]: each head's query, key and value lie together."""
    return qkv.view(qkv.shape[0], heads, 3, -1)


def rotate(
    qkv: Tensor, heads: int, cosine_TD: Tensor, sine_TD: Tensor, turn: Callable[..., None] | None = None
) -> Tensor:
    """Apply the rotary tables [T, D/2] to the queries and keys of a projection, in place, with gradient.

    `turn`: what does it on [T, N, 3, D], in place of `rotate_`. A view, as Transformer Engine's layers return, is
    copied first: autograd forbids to change what another function of its kind handed out as a view.
    """
    if qkv._is_view():
        qkv = qkv.clone()
    rotated: Tensor = _Rotate.apply(qkv, heads, cosine_TD, sine_TD, turn or rotate_)  # type: ignore[no-untyped-call]
    return rotated


def rotate_(qkv_TN3D: Tensor, cosine_TD: Tensor, sine_TD: Tensor) -> None:
    """The same on [T, N, 3, D] and without gradient."""
    half = qkv_TN3D.shape[-1] // 2
    first, second = qkv_TN3D[:, :, :2, :half], qkv_TN3D[:, :, :2, half:]
    cosine, sine = cosine_TD[:, None, None, :], sine_TD[:, None, None, :]
    rotated = torch.mul(first, cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).addcmul_(first, sine)
    first.copy_(rotated)
