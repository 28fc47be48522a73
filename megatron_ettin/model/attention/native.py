"""Attention on packed segments by the extension's kernel, on a CPU: only what is within reach is computed."""

# T tokens of this rank, K tokens whose keys it needs, N heads, D head size
# the axis of three holds query, key, value; the axis of two key, value

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.kernels.pointwise import is_native
from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.model.pattern import Reach

Segment = tuple[int, int, int, int, int]
"""First query, queries, first key, keys, and the key of the first query's own token counted from the first key."""


def attend(
    qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None, wanted: Wanted | None = None
) -> Tensor:
    """Attention output [T, N, D] of rotated queries, keys and values, each query within its own segment.

    With `wanted`, of its queries alone, [L, N, D], for an unbounded reach.
    """
    if not is_native(qkv_TN3D):
        raise TypeError(f"the native kernel takes float32 and bfloat16 on a CPU, not {qkv_TN3D.dtype}")
    output_TND: Tensor = _NativeAttention.apply(  # type: ignore[no-untyped-call]
        qkv_TN3D, reach, packed, exchange, wanted
    )
    return output_TND


class _NativeAttention(torch.autograd.Function):
    """Keys and values are read where they lie; under context parallelism from a copy with the other ranks' tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_TN3D: Tensor,
        reach: Reach,
        packed: PackedRows,
        exchange: Exchange | None,
        wanted: Wanted | None,
    ) -> Tensor:
        """Output [L, N, D]; kept are the inputs, the output and the sums of the softmax."""
        qkv_TN3D = qkv_TN3D.contiguous()
        kv_KN2D = _keys(qkv_TN3D, reach, exchange)
        query_LND = qkv_TN3D[:, :, 0] if wanted is None else qkv_TN3D[:, :, 0].index_select(0, wanted.positions_L)
        output_LND = torch.empty_like(query_LND, memory_format=torch.contiguous_format)
        sums_NL = torch.empty(output_LND.shape[1], output_LND.shape[0])
        kernel = _kernel(query_LND, kv_KN2D, reach, packed, wanted)
        kernel.forward(output_LND.data_ptr(), sums_NL.data_ptr())
        ctx.reach, ctx.packed, ctx.exchange, ctx.wanted = reach, packed, exchange, wanted
        chosen_LND = None if wanted is None else query_LND
        ctx.save_for_backward(qkv_TN3D, chosen_LND, kv_KN2D if exchange else None, output_LND, sums_NL)
        return output_LND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Gradient of queries, keys and values [T, N, 3, D]; zero for queries that were not wanted."""
        qkv_TN3D, chosen_LND, others, output_LND, sums_NL = ctx.saved_tensors
        gradient_LND = gradients[0].contiguous()
        gradient_TN3D = torch.empty_like(qkv_TN3D, memory_format=torch.contiguous_format)
        query_LND, kv_KN2D = qkv_TN3D[:, :, 0], qkv_TN3D[:, :, 1:] if others is None else others
        d_query_LND = gradient_TN3D[:, :, 0]
        d_kv_KN2D = gradient_TN3D[:, :, 1:] if others is None else torch.zeros_like(others)
        if chosen_LND is not None:
            query_LND, d_query_LND = chosen_LND, torch.empty_like(chosen_LND)
        if d_query_LND.stride() != query_LND.stride() or d_kv_KN2D.stride() != kv_KN2D.stride():
            raise RuntimeError("gradients must be laid out as their tensors")
        _kernel(query_LND, kv_KN2D, ctx.reach, ctx.packed, ctx.wanted).backward(
            output_LND.data_ptr(),
            gradient_LND.data_ptr(),
            sums_NL.data_ptr(),
            (d_query_LND.data_ptr(), d_kv_KN2D[:, :, 0].data_ptr(), d_kv_KN2D[:, :, 1].data_ptr()),
        )
        if chosen_LND is not None:
            gradient_TN3D[:, :, 0].zero_().index_copy_(0, ctx.wanted.positions_L, d_query_LND)
        if others is not None:
            gradient_TN3D[:, :, 1:] = _returned(d_kv_KN2D, qkv_TN3D.shape[0], ctx.reach, ctx.exchange)
        return gradient_TN3D, None, None, None, None


def _keys(qkv_TN3D: Tensor, reach: Reach, exchange: Exchange | None) -> Tensor:
    """Keys and values [K, N, 2, D]: this rank's, with the halo of a window or those of the whole stream."""
    kv_TN2D = qkv_TN3D[:, :, 1:]
    if exchange is None:
        return kv_TN2D
    if not reach.is_local:
        return exchange.gather(kv_TN2D)
    before, after = exchange.halo(kv_TN2D, *reach.halo)
    return torch.cat([before, kv_TN2D, after])


def _returned(d_kv_KN2D: Tensor, tokens: int, reach: Reach, exchange: Exchange) -> Tensor:
    """The gradient of this rank's own keys and values, with what the other ranks found for them."""
    if not reach.is_local:
        return exchange.scatter_sum(d_kv_KN2D)
    left, _ = reach.halo
    own = d_kv_KN2D[left : left + tokens]
    exchange.return_halo(own, d_kv_KN2D[:left], d_kv_KN2D[left + tokens :])
    return own


def _kernel(query_LND: Tensor, kv_KN2D: Tensor, reach: Reach, packed: PackedRows, wanted: Wanted | None = None) -> Any:
    queries, heads, size = query_LND.shape
    left, right = reach.window
    keys = kv_KN2D.shape[0]
    halo = reach.halo[0] if reach.is_local and keys > packed.length else 0
    first_key = 0 if keys > packed.length and not reach.is_local else packed.first_token - halo
    pieces = packed.derived(("native", first_key, keys), lambda: segments(packed, first_key, keys))
    if wanted is not None:  # a segment's first queries side by side, or such as see all of it whichever they are
        mine = zip(packed.of_mine(wanted.bounds), pieces, strict=True)
        pieces = [(low, high - low, key, keys, own) for (low, high), (_, _, key, keys, own) in mine]
    reaches = [] if reach.causal is None else [reach.of(causal=causal).window for causal in packed.causal_of_mine()]
    return _native.Attention(
        inputs=(query_LND.data_ptr(), kv_KN2D[:, :, 0].data_ptr(), kv_KN2D[:, :, 1].data_ptr()),
        strides=(query_LND.stride(0), query_LND.stride(1), kv_KN2D.stride(0), kv_KN2D.stride(1)),
        bfloat16=query_LND.dtype == torch.bfloat16,
        segments=pieces,
        tokens=queries, heads=heads, head_size=size, left=left, right=right,
        threads=torch.get_num_threads(), reaches=reaches,
    )  # fmt: skip


def segments(packed: PackedRows, first_key: int, keys: int) -> list[Segment]:
    """This rank's queries against the keys of tokens [first_key, first_key + keys) of the stream, piece by piece."""
    found = []
    for low, high in zip(packed.cu_seqlens, packed.cu_seqlens[1:], strict=False):
        first, last = max(low, packed.first_token), min(high, packed.first_token + packed.length)
        if first >= last:
            continue
        key, stop = max(low, first_key), min(high, first_key + keys)
        found.append((first - packed.first_token, last - first, key - first_key, stop - key, first - key))
    return found
