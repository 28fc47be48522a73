"""Attention on packed segments by torch's public function: global layers by segment, local layers by query blocks.

Exact in every type and on every device, float64 included; slower than the kernels that know segments.
"""

# T tokens of the stream, N heads, D head size
# C query blocks, Q queries of a block, K keys of a block (Q and its neighbours)
# the axis of three holds query, key, value; the axis of two key, value

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as functional
from torch import Tensor

from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.model.pattern import Reach
from megatron_ettin.parallel.device import to_device

QUERIES = 64
"""Queries of a block. Smaller ones see fewer useless keys, larger ones make larger products."""


def attend(
    qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None, wanted: Wanted | None = None
) -> Tensor:
    """Attention output [T, N, D] of rotated queries, keys and values, each query within its own segment.

    For whole streams and all queries: raises ValueError for context parallelism and for wanted queries.
    """
    if wanted is not None:
        raise ValueError("attention of some queries alone needs another back end")
    if exchange is not None:
        raise ValueError("attention over several context ranks needs another back end")
    if reach.is_local:
        return _local(qkv_TN3D, reach, packed)
    outputs = []
    for (low, high), causal in zip(pairwise(packed.cu_seqlens), packed.causal_of_mine(), strict=True):
        is_causal = reach.of(causal=causal).is_causal
        query, key, value = (qkv_TN3D[low:high, :, part].transpose(0, 1)[None] for part in range(3))
        output_1NLD = functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        outputs.append(output_1NLD[0].transpose(0, 1))
    return torch.cat(outputs)


def _local(qkv_TN3D: Tensor, reach: Reach, packed: PackedRows) -> Tensor:
    """Blocks of queries against their own keys and their neighbours'; a stream that does not divide is filled up."""
    left, right = reach.halo
    missing = -qkv_TN3D.shape[0] % QUERIES
    query_TND = functional.pad(qkv_TN3D[:, :, 0], (0, 0, 0, 0, 0, missing))
    query_CNQD = query_TND.reshape(-1, QUERIES, *query_TND.shape[1:]).transpose(1, 2)
    padded = functional.pad(qkv_TN3D[:, :, 1:], (0, 0, 0, 0, 0, 0, left, missing + right))
    kv_CN2DK = padded.unfold(0, QUERIES + left + right, QUERIES)
    key_CNKD, value_CNKD = (kv_CN2DK[:, :, part].transpose(-1, -2) for part in (0, 1))
    mask = packed.derived(("mask", reach, qkv_TN3D.dtype), lambda: block_mask(packed, reach, qkv_TN3D.dtype))
    output_CNQD = functional.scaled_dot_product_attention(query_CNQD, key_CNKD, value_CNKD, attn_mask=mask)
    return output_CNQD.transpose(1, 2).flatten(0, 1)[: qkv_TN3D.shape[0]]


def block_mask(packed: PackedRows, reach: Reach, dtype: torch.dtype) -> Tensor:
    """What each block of queries may see of its own keys and their neighbours: additive [C, 1, Q, K], 0 or -inf.

    Key k of block c is token c * Q + k - left. Costs T * (Q + left + right) numbers, never T * T.
    """
    left, right = reach.halo
    lengths = [high - low for low, high in pairwise(packed.cu_seqlens)]
    missing = -packed.length % QUERIES
    # Filling is a segment of its own, -1, which sees itself: a softmax over nothing would be NaN.
    numbers = [-1, *range(len(lengths)), -1]
    repeats = torch.tensor([left, *lengths, missing + right])
    segments = to_device(torch.tensor(numbers).repeat_interleave(repeats), packed.positions_T.device)
    query_CQ = segments[left : len(segments) - right].view(-1, QUERIES)
    key_CK = segments.unfold(0, QUERIES + left + right, QUERIES)
    queries, keys = (torch.arange(size, device=segments.device) for size in (QUERIES, key_CK.shape[1]))
    distance_QK = keys - queries[:, None] - left
    windows = [reach.of(causal=causal).window for causal in packed.causal_of_mine()]
    # behind the last segment stands the window of the filling, -1
    bounds = to_device(torch.tensor([*windows, (0, 0)]), segments.device)
    before_CQ1, after_CQ1 = (bounds[query_CQ, side][:, :, None] for side in (0, 1))
    seen_CQK = (query_CQ[:, :, None] == key_CK[:, None, :]) & (distance_QK >= -before_CQ1) & (distance_QK <= after_CQ1)
    mask = torch.zeros(seen_CQK.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~seen_CQK, float("-inf"))[:, None]
