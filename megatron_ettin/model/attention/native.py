"""Attention on packed segments by the extension's kernel, on a CPU: only what is within reach is computed."""

# T tokens of this rank, K tokens whose keys it needs, N heads, D head size
# the axis of three holds query, key, value; the axis of two key, value

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.native_types import is_native
from megatron_ettin.model.packed import PackedRows
from megatron_ettin.model.pattern import Reach

Segment = tuple[int, int, int, int, int]
"""First query, queries, first key, keys, and the key of the first query's own token counted from the first key."""


def attend(qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None) -> Tensor:
    """Attention output [T, N, D] of rotated queries, keys and values, each query within its own segment."""
    if not is_native(qkv_TN3D):
        raise TypeError(f"the native kernel takes float32 and bfloat16 on a CPU, not {qkv_TN3D.dtype}")
    output_TND: Tensor = _NativeAttention.apply(qkv_TN3D, reach, packed, exchange)  # type: ignore[no-untyped-call]
    return output_TND


class _NativeAttention(torch.autograd.Function):
    """Keys and values are read where they lie; under context parallelism from a copy with the other ranks' tokens."""

    @staticmethod
    def forward(ctx: Any, qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None) -> Tensor:
        qkv_TN3D = qkv_TN3D.contiguous()
        kv_KN2D = _keys(qkv_TN3D, reach, exchange)
        tokens, heads, _, size = qkv_TN3D.shape
        output_TND = qkv_TN3D.new_empty(tokens, heads, size)
        sums_NT = torch.empty(heads, tokens)
        kernel = _kernel(qkv_TN3D, kv_KN2D, reach, packed)
        kernel.forward(output_TND.data_ptr(), sums_NT.data_ptr())
        ctx.reach, ctx.packed, ctx.exchange = reach, packed, exchange
        ctx.save_for_backward(qkv_TN3D, kv_KN2D if exchange else None, output_TND, sums_NT)
        return output_TND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        qkv_TN3D, others, output_TND, sums_NT = ctx.saved_tensors
        gradient_TND = gradients[0].contiguous()
        gradient_TN3D = torch.empty_like(qkv_TN3D, memory_format=torch.contiguous_format)
        kv_KN2D = qkv_TN3D[:, :, 1:] if others is None else others
        d_kv_KN2D = gradient_TN3D[:, :, 1:] if others is None else torch.zeros_like(others)
        if gradient_TN3D.stride() != qkv_TN3D.stride() or d_kv_KN2D.stride() != kv_KN2D.stride():
            raise RuntimeError("gradients must be laid out as their tensors")
        _kernel(qkv_TN3D, kv_KN2D, ctx.reach, ctx.packed).backward(
            output_TND.data_ptr(),
            gradient_TND.data_ptr(),
            sums_NT.data_ptr(),
            (gradient_TN3D.data_ptr(), d_kv_KN2D[:, :, 0].data_ptr(), d_kv_KN2D[:, :, 1].data_ptr()),
        )
        if others is not None:
            gradient_TN3D[:, :, 1:] = _returned(d_kv_KN2D, qkv_TN3D.shape[0], ctx.reach, ctx.exchange)
        return gradient_TN3D, None, None, None


def _keys(qkv_TN3D: Tensor, reach: Reach, exchange: Exchange | None) -> Tensor:
    """Keys and values [K, N, 2, D]: this rank's, with the halo of a window or those of the whole stream."""
    kv_TN2D = qkv_TN3D[:, :, 1:]
    if exchange is None:
        return kv_TN2D
    if not reach.is_local:
        return exchange.gather(kv_TN2D)
    before, after = exchange.halo(kv_TN2D, *reach.window)
    return torch.cat([before, kv_TN2D, after])


def _returned(d_kv_KN2D: Tensor, tokens: int, reach: Reach, exchange: Exchange) -> Tensor:
    """The gradient of this rank's own keys and values, with what the other ranks found for them."""
    if not reach.is_local:
        return exchange.scatter_sum(d_kv_KN2D)
    left, _ = reach.window
    own = d_kv_KN2D[left : left + tokens]
    exchange.return_halo(own, d_kv_KN2D[:left], d_kv_KN2D[left + tokens :])
    return own


def _kernel(qkv_TN3D: Tensor, kv_KN2D: Tensor, reach: Reach, packed: PackedRows) -> Any:
    tokens, heads, _, size = qkv_TN3D.shape
    left, right = reach.window
    keys = kv_KN2D.shape[0]
    halo = left if reach.is_local and keys > tokens else 0
    first_key = 0 if keys > tokens and not reach.is_local else packed.start - halo
    return _native.Attention(
        inputs=(qkv_TN3D.data_ptr(), kv_KN2D[:, :, 0].data_ptr(), kv_KN2D[:, :, 1].data_ptr()),
        strides=(qkv_TN3D.stride(0), qkv_TN3D.stride(1), kv_KN2D.stride(0), kv_KN2D.stride(1)),
        bfloat16=qkv_TN3D.dtype == torch.bfloat16,
        segments=packed.derived(("native", first_key, keys), lambda: segments(packed, first_key, keys)),
        tokens=tokens, heads=heads, head_size=size, left=left, right=right, threads=torch.get_num_threads(),
    )  # fmt: skip


def segments(packed: PackedRows, first_key: int, keys: int) -> list[Segment]:
    """This rank's queries against the keys of tokens [first_key, first_key + keys) of the stream, piece by piece."""
    found = []
    for low, high in zip(packed.cu_seqlens, packed.cu_seqlens[1:], strict=False):
        first, last = max(low, packed.start), min(high, packed.start + packed.length)
        if first >= last:
            continue
        key, stop = max(low, first_key), min(high, first_key + keys)
        found.append((first - packed.start, last - first, key - first_key, stop - key, first - key))
    return found
