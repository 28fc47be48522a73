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


class _RotateParts(torch.autograd.Function):
    """The same, for those who take queries, keys and values one by one and return three gradients."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, heads: int, cosine_TD: Tensor, sine_TD: Tensor, turn: Callable[..., None],
        turn_back: Callable[..., Tensor],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Three views of the projection, turned. Whatever made it must not need it any more: autograd is not told."""
        ctx.turn_back = turn_back
        ctx.save_for_backward(cosine_TD, sine_TD)
        whole_TN3D = split(qkv, heads)
        turn(whole_TN3D, cosine_TD, sine_TD)
        return whole_TN3D.unbind(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients turned back, side by side."""
        cosine_TD, sine_TD = ctx.saved_tensors
        joined_TN3D = ctx.turn_back(*gradients, cosine_TD, sine_TD)
        return joined_TN3D.flatten(1)[:, None], None, None, None, None, None


def split(qkv: Tensor, heads: int) -> Tensor:
    """The view [T, N, 3, D] of a projection [T, 1, N * 3 * D]: each head's query, key and value lie together."""
    return qkv.view(qkv.shape[0], heads, 3, qkv.shape[-1] // (3 * heads))


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


def rotate_parts(
    qkv: Tensor,
    heads: int,
    cosine_TD: Tensor,
    sine_TD: Tensor,
    turn: Callable[..., None],
    turn_back: Callable[..., Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Turned queries and keys, and values, each a view [T, N, D] of a projection [T, 1, N * 3 * D], with gradient.

    `turn_back`: makes the projection's gradient [T, N, 3, D] from the three gradients and the tables.
    """
    if qkv._is_view():
        qkv = qkv.clone()
    query_TND, key_TND, value_TND = _RotateParts.apply(  # type: ignore[no-untyped-call]
        qkv, heads, cosine_TD, sine_TD, turn, turn_back
    )
    return query_TND, key_TND, value_TND


def rotate_(qkv_TN3D: Tensor, cosine_TD: Tensor, sine_TD: Tensor) -> None:
    """The same on [T, N, 3, D] and without gradient."""
    half = qkv_TN3D.shape[-1] // 2
    first, second = qkv_TN3D[:, :, :2, :half], qkv_TN3D[:, :, :2, half:]
    cosine, sine = cosine_TD[:, None, None, :], sine_TD[:, None, None, :]
    rotated = torch.mul(first, cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).addcmul_(first, sine)
    first.copy_(rotated)
