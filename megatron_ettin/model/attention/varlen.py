"""Attention on packed segments by variable-length GPU kernels: torch's, flash-attn's and Transformer Engine's."""

# T tokens of this rank, N heads, D head size; the axis of three holds query, key, value; the axis of two key, value

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.packed import PackedRows, Span, Wanted
from megatron_ettin.model.pattern import Reach

Kernel = Callable[[Tensor, Tensor, Tensor, Span, Reach], Tensor]
"""(query [T, N, D], key, value, bounds, reach) -> output [T, N, D]. Bounds are aligned at the segments' ends."""


def attend(
    kernel: Kernel,
    qkv_TN3D: Tensor,
    reach: Reach,
    packed: PackedRows,
    exchange: Exchange | None,
    wanted: Wanted | None = None,
) -> Tensor:
    """Attention output [T, N, D] of rotated queries, keys and values by a variable-length kernel.

    With `wanted`, of its queries alone, [L, N, D], which must see their whole segments.

    Under context parallelism the keys are those of this rank and what the others must add: the window's halo for
    local layers, the whole stream for global ones. Kernels align a segment's queries and keys at the end, so where
    keys to the right belong to another rank, empty queries stand in for theirs.
    """
    span = packed.span(reach, wanted)
    # The gradient of unbind is one stack; that of slices fills a whole tensor with zeros for each of them.
    if exchange is None:
        query_TND, key_TND, value_TND = qkv_TN3D.unbind(2)
    else:
        kv_TN2D = _keys_and_values(qkv_TN3D[:, :, 1:], reach, packed, span, exchange)
        query_TND, (key_TND, value_TND) = qkv_TN3D[:, :, 0], kv_TN2D.unbind(2)
    if wanted is not None:
        query_TND = query_TND.index_select(0, wanted.positions_L)
        if span.most_queries == 0:  # no kernel runs on nothing; other ranks still wait for gradients of the keys
            return query_TND + value_TND[:0]
    if not span.empty_queries:
        return kernel(query_TND, key_TND, value_TND, span, reach)
    padded_TND = functional.pad(query_TND, (0, 0, 0, 0, 0, span.empty_queries))
    return kernel(padded_TND, key_TND, value_TND, span, reach)[: packed.length]


def _keys_and_values(kv_TN2D: Tensor, reach: Reach, packed: PackedRows, span: Span, exchange: Exchange) -> Tensor:
    """Those that the span needs, other ranks' among them, [keys, N, 2, D]."""
    if not reach.is_local:
        gathered: Tensor = _Gather.apply(kv_TN2D, exchange)  # type: ignore[no-untyped-call]
        return gathered[span.first_key : span.last_key]
    left, right = reach.window
    widened: Tensor = _Halo.apply(kv_TN2D, left, right, exchange)  # type: ignore[no-untyped-call]
    offset = packed.first_token - left
    return widened[span.first_key - offset : span.last_key - offset]


class _Gather(torch.autograd.Function):
    """Keys and values of the whole stream; backwards each rank's sum."""

    @staticmethod
    def forward(ctx: Any, kv_TN2D: Tensor, exchange: Exchange) -> Tensor:
        """[T, N, 2, D] of this rank -> [tokens of the stream, N, 2, D]."""
        ctx.exchange = exchange
        return exchange.gather(kv_TN2D)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """This rank's slice of the sum of all ranks' gradients."""
        return ctx.exchange.scatter_sum(gradients[0]), None


class _Halo(torch.autograd.Function):
    """Keys and values with the neighbours' within a window; backwards each neighbour gets its part."""

    @staticmethod
    def forward(ctx: Any, kv_TN2D: Tensor, left: int, right: int, exchange: Exchange) -> Tensor:
        """[T, N, 2, D] of this rank -> [left + T + right, N, 2, D]."""
        ctx.exchange, ctx.left, ctx.tokens = exchange, left, kv_TN2D.shape[0]
        before, after = exchange.halo(kv_TN2D, left, right)
        return torch.cat([before, kv_TN2D, after])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of this rank's own, with what its neighbours found for them."""
        before, own, after = gradients[0].tensor_split([ctx.left, ctx.left + ctx.tokens])
        own = own.clone()
        ctx.exchange.return_halo(own, before, after)
        return own, None, None, None


def varlen_kernel() -> Kernel:
    """torch's variable-length FlashAttention."""
    from torch.nn.attention.varlen import varlen_attn

    def kernel(query: Tensor, key: Tensor, value: Tensor, span: Span, reach: Reach) -> Tensor:
        output: Tensor = varlen_attn(
            query, key, value, span.queries_S, span.keys_S, span.most_queries, span.most_keys,
            window_size=reach.window,
        )  # type: ignore[assignment]  # fmt: skip
        return output

    return kernel


def flash_kernel(hopper: bool, deterministic: bool) -> Kernel:
    """flash-attn 3 on Hopper where it is installed, else flash-attn 2; both take the same arguments here."""
    if hopper:
        from flash_attn_interface import flash_attn_varlen_func
    else:
        from flash_attn import flash_attn_varlen_func

    def kernel(query: Tensor, key: Tensor, value: Tensor, span: Span, reach: Reach) -> Tensor:
        output = flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens_q=span.queries_S,
            cu_seqlens_k=span.keys_S,
            max_seqlen_q=span.most_queries,
            max_seqlen_k=span.most_keys,
            causal=reach.is_causal,
            window_size=reach.window,
            deterministic=deterministic,
        )
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first

    return kernel


def te_kernel(layer: int, heads: int, head_size: int, reach: Reach) -> Kernel:
    """Transformer Engine's dot-product attention on packed segments, one module a layer."""
    from transformer_engine.pytorch import DotProductAttention

    mask = "padding_causal" if reach.is_causal else "padding"
    module = DotProductAttention(
        num_attention_heads=heads,
        kv_channels=head_size,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type=mask,
        window_size=reach.window,
        layer_number=layer + 1,
    )

    def kernel(query: Tensor, key: Tensor, value: Tensor, span: Span, reach: Reach) -> Tensor:
        output: Tensor = module(
            query,
            key,
            value,
            qkv_format="thd",
            cu_seqlens_q=span.queries_S,
            cu_seqlens_kv=span.keys_S,
            max_seqlen_q=span.most_queries,
            max_seqlen_kv=span.most_keys,
            attn_mask_type=mask,
            window_size=reach.window,
        )
        return output.view(query.shape)

    return kernel
