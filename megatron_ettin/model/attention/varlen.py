"""Attention on packed segments by variable-length GPU kernels: torch's, flash-attn's and Transformer Engine's."""

# T tokens of this rank, K keys, N heads, D head size
# the axis of three holds query, key, value; the axis of two key, value

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.nn import attention

from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.packed import PackedRows, Span, Wanted
from megatron_ettin.model.pattern import Reach
from megatron_ettin.parallel.device import to_device

FLASH_3 = "FA3"
"""What torch calls flash-attn 3."""
Kernel = Callable[[Tensor, Tensor, Tensor, Span, Reach], Tensor]
"""(query [T, N, D], key, value, bounds, reach) -> output [T, N, D]. Bounds are aligned at the segments' ends."""


Parts = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each [T, N, D]."""


def attend(
    kernel: Kernel,
    qkv: Tensor | Parts,
    reach: Reach,
    packed: PackedRows,
    exchange: Exchange | None,
    wanted: Wanted | None = None,
) -> Tensor:
    """Attention output [T, N, D] of rotated queries, keys and values [T, N, 3, D] by a variable-length kernel.

    They may come one by one where the kernel takes them as they are: one kind of rows, no context ranks.
    With `wanted`, of its queries alone, [L, N, D], which must see their whole segments.

    Under context parallelism the keys are those of this rank and what the others must add: the window's halo for
    local layers, the whole stream for global ones. Kernels align a segment's queries and keys at the end, so where
    keys to the right belong to another rank, empty queries stand in for theirs.
    """
    if reach.causal is not None and isinstance(qkv, Tensor):
        return _attend_both_kinds(kernel, qkv, reach, packed, exchange)
    span = packed.span(reach, wanted)
    if not isinstance(qkv, Tensor):
        query_TND, key_TND, value_TND = qkv
    elif exchange is None:
        # The gradient of unbind is one stack; that of slices fills a whole tensor with zeros for each of them.
        query_TND, key_TND, value_TND = qkv.unbind(2)
    else:
        kv_TN2D = _keys_and_values(qkv[:, :, 1:], reach, packed, span, exchange)
        query_TND, (key_TND, value_TND) = qkv[:, :, 0], kv_TN2D.unbind(2)
    if wanted is not None:
        query_TND = query_TND.index_select(0, wanted.positions_L)
        if span.most_queries == 0:  # no kernel runs on nothing; other ranks still wait for gradients of the keys
            return query_TND + value_TND[:0]
    if not span.empty_queries:
        return kernel(query_TND, key_TND, value_TND, span, reach)
    padded_TND = functional.pad(query_TND, (0, 0, 0, 0, 0, span.empty_queries))
    return kernel(padded_TND, key_TND, value_TND, span, reach)[: packed.length]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The segments of one kind among this rank's, gathered."""

    span: Span
    """Their bounds among what is gathered."""
    queries_T: Tensor
    """Which of this rank's tokens they are, int64."""
    keys_K: Tensor
    """Which of the keys that this rank has they see, int64."""


def _attend_both_kinds(
    kernel: Kernel, qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None
) -> Tensor:
    """The same in a run with rows of both kinds: keys are exchanged once, and each kind is gathered for a call."""
    widest = Reach(left=reach.halo[0], right=reach.right) if reach.is_local else Reach(left=None, right=None)
    span = packed.span(widest)
    query_TND, kv_TN2D = qkv_TN3D[:, :, 0], qkv_TN3D[:, :, 1:]
    if exchange is not None:
        kv_TN2D = _keys_and_values(kv_TN2D, widest, packed, span, exchange)
    output_TND = torch.zeros_like(query_TND, memory_format=torch.contiguous_format)
    for causal in sorted(set(packed.causal_of_mine())):
        seen = reach.of(causal=causal)
        part = packed.derived(("part", seen), partial(_part, packed, seen, causal, span.first_key))
        own_TND = query_TND.index_select(0, part.queries_T)
        padded_TND = functional.pad(own_TND, (0, 0, 0, 0, 0, part.span.empty_queries))
        key_KND, value_KND = kv_TN2D.index_select(0, part.keys_K).unbind(2)
        found_TND = kernel(padded_TND, key_KND, value_KND, part.span, seen)[: own_TND.shape[0]]
        output_TND = output_TND.index_copy(0, part.queries_T, found_TND)
    return output_TND


def _part(packed: PackedRows, reach: Reach, causal: bool, first_key: int) -> _Part:
    """The segments of one kind, where the keys begin with token ``first_key`` of the stream."""
    first, stop = packed.first_token, packed.first_token + packed.length
    left, right = reach.window
    mine = zip(packed.of_mine(packed.cu_seqlens), packed.causal_of_mine(), strict=True)
    pieces = [piece for piece, looks_left in mine if looks_left == causal]
    queries = [(max(low, first), min(high, stop)) for low, high in pieces]
    keys = [(low if left < 0 else max(low, first - left), high if right < 0 else min(high, stop + right))
            for low, high in pieces]  # fmt: skip
    # Kernels align a bounded segment at its end: only the last one can have keys behind this rank's queries.
    empty = 0 if left < 0 and right < 0 else keys[-1][1] - queries[-1][1]
    lengths = [high - low for low, high in queries]
    lengths[-1] += empty
    span = packed.span_of(lengths, [high - low for low, high in keys], first_key, empty)
    device = packed.positions_T.device
    indices = [
        to_device(torch.cat([torch.arange(low - origin, high - origin) for low, high in pairs]), device)
        for pairs, origin in ((queries, first), (keys, first_key))
    ]
    return _Part(span=span, queries_T=indices[0], keys_K=indices[1])


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


def varlen_kernel(by_flash_3: bool = False) -> Kernel:
    """torch's variable-length FlashAttention: version 2, or for the whole process flash-attn 3 in its place."""
    from torch.nn.attention.varlen import varlen_attn

    active = attention.current_flash_attention_impl()
    if by_flash_3 and active != FLASH_3:
        attention.activate_flash_attention_impl(FLASH_3)
    elif active and not by_flash_3:
        attention.restore_flash_attention_impl()

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

    module = DotProductAttention(
        num_attention_heads=heads,
        kv_channels=head_size,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type=_mask_type(reach),
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
            attn_mask_type=_mask_type(reach),
            window_size=reach.window,
        )
        return output.view(query.shape)

    return kernel


def _mask_type(reach: Reach) -> str:
    return "padding_causal" if reach.is_causal else "padding"
