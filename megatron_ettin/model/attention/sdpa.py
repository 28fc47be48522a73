"""Attention on packed segments by torch's own fused kernel: global layers by segment, local layers by blocks."""

# T tokens of this rank, G tokens of the stream, N heads, D head size
# C query blocks, Q queries of a block, K keys of a block (Q and its neighbours)
# the axis of three holds query, key, value; the axis of two key, value

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.packed import PackedRows, Tile, Wanted
from megatron_ettin.model.pattern import Reach

BLOCK = 64
"""Queries of a block. Smaller ones see fewer useless keys, larger ones make larger products; 64 is best on a CPU."""

aten = torch.ops.aten


def attend(
    qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None, wanted: Wanted | None = None
) -> Tensor:
    """Attention output [T, N, D] of rotated queries, keys and values, each query within its own segment."""
    _refuse(wanted)
    function = _LocalAttention if reach.is_local else _GlobalAttention
    output_TND: Tensor = function.apply(qkv_TN3D, reach, packed, exchange)  # type: ignore[no-untyped-call]
    return output_TND


def attend_plain(
    qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None, wanted: Wanted | None = None
) -> Tensor:
    """The same by torch's public function and its own gradient, on any device. Not for context parallelism."""
    _refuse(wanted)
    if exchange is not None:
        raise ValueError("attention over several context ranks needs another back end")
    if reach.is_local:
        return _plain_local(qkv_TN3D, reach, packed)
    parts = []
    for tile in packed.tiles(reach):
        query, key, value = (_heads_first(qkv_TN3D[slice(*tile.queries), :, part]) for part in range(3))
        parts.append(functional.scaled_dot_product_attention(query, key, value, is_causal=tile.causal))
    return _joined(parts)


def _refuse(wanted: Wanted | None) -> None:
    if wanted is not None:
        raise ValueError("attention of some queries alone needs another back end")


def _plain_local(qkv_TN3D: Tensor, reach: Reach, packed: PackedRows) -> Tensor:
    left, right = reach.window
    tokens = qkv_TN3D.shape[0]
    padded = functional.pad(qkv_TN3D, (0, 0, 0, 0, 0, 0, left, _round_up(tokens) - tokens + right))
    keys_CN2DK = padded[:, :, 1:].unfold(0, BLOCK + left + right, BLOCK)
    key, value = (keys_CN2DK[:, :, part].transpose(-1, -2) for part in (0, 1))
    mask = packed.block_mask(reach, BLOCK, qkv_TN3D.dtype)
    query = _query_blocks(qkv_TN3D[:, :, 0])
    return _from_blocks(functional.scaled_dot_product_attention(query, key, value, attn_mask=mask), tokens)


class _GlobalAttention(torch.autograd.Function):
    """Every query sees its whole segment, or the part to its left. One fused call a tile, no mask anywhere."""

    @staticmethod
    def forward(ctx: Any, qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None) -> Tensor:
        tiles = packed.tiles(reach)
        query_TND = qkv_TN3D[:, :, 0]
        kv_GN2D = exchange.gather(qkv_TN3D[:, :, 1:]) if exchange else qkv_TN3D[:, :, 1:]
        parts: list[tuple[Tensor, Tensor]] = []
        for index, tile in enumerate(tiles):
            part = _forward_tile(tile, query_TND, kv_GN2D)
            merges = index > 0 and tiles[index - 1].queries == tile.queries
            parts.append(_merge(parts.pop(), part) if merges else part)
        output_TND = _joined([output for output, _ in parts])
        ctx.tiles, ctx.exchange = tiles, exchange
        ctx.save_for_backward(qkv_TN3D, kv_GN2D if exchange else None, output_TND, *(lse for _, lse in parts))
        return output_TND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        qkv_TN3D, gathered, output_TND, *sums = ctx.saved_tensors
        gradient_TND = gradients[0]
        kv_GN2D = qkv_TN3D[:, :, 1:] if gathered is None else gathered
        gradient_TN3D = torch.empty_like(qkv_TN3D)
        gradient_GN2D = gradient_TN3D[:, :, 1:] if gathered is None else torch.zeros_like(kv_GN2D)
        position = -1
        for index, tile in enumerate(ctx.tiles):
            again = index > 0 and ctx.tiles[index - 1].queries == tile.queries
            position += not again
            query, keys = slice(*tile.queries), slice(*tile.keys)
            d_query, d_key, d_value = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                _heads_first(gradient_TND[query]),
                _heads_first(qkv_TN3D[query, :, 0]),
                _heads_first(kv_GN2D[keys, :, 0]),
                _heads_first(kv_GN2D[keys, :, 1]),
                _heads_first(output_TND[query]),
                sums[position],
                0.0,
                tile.causal,
            )
            _put(gradient_TN3D[query, :, 0], d_query, add=again)
            _put(gradient_GN2D[keys, :, 0], d_key, add=gathered is not None)
            _put(gradient_GN2D[keys, :, 1], d_value, add=gathered is not None)
        if gathered is not None:
            gradient_TN3D[:, :, 1:] = ctx.exchange.scatter_sum(gradient_GN2D)
        return gradient_TN3D, None, None, None


def _forward_tile(tile: Tile, query_TND: Tensor, kv_GN2D: Tensor) -> tuple[Tensor, Tensor]:
    keys = slice(*tile.keys)
    output, lse = aten._scaled_dot_product_flash_attention_for_cpu(
        _heads_first(query_TND[slice(*tile.queries)]),
        _heads_first(kv_GN2D[keys, :, 0]),
        _heads_first(kv_GN2D[keys, :, 1]),
        0.0,
        tile.causal,
    )
    return output, lse


def _merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over the union of two key ranges, from the outputs and log-sums over each."""
    lse = torch.logaddexp(one[1], other[1])
    weights = [_weight(part[1], lse, part[0]) for part in (one, other)]
    return one[0] * weights[0] + other[0] * weights[1], lse


def _weight(part_lse: Tensor, lse: Tensor, output: Tensor) -> Tensor:
    """Share of one key range, broadcast over the head size; the kernel keeps log-sums as [1, N, L] or [1, L, N]."""
    share = (part_lse - lse).exp()
    if share.shape[1] != output.shape[1] or share.shape[2] != output.shape[2]:
        share = share.transpose(1, 2)
    return share.unsqueeze(-1).to(output.dtype)


def _heads_first(x_LND: Tensor) -> Tensor:
    return x_LND.transpose(0, 1).unsqueeze(0)


def _joined(parts: list[Tensor]) -> Tensor:
    outputs = [part[0].transpose(0, 1) for part in parts]
    return outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs)


def _put(target_LND: Tensor, source_1NLD: Tensor, add: bool) -> None:
    source = source_1NLD[0].transpose(0, 1)
    if add:
        target_LND.add_(source)
    else:
        target_LND.copy_(source)


class _LocalAttention(torch.autograd.Function):
    """Every query sees a window of its segment: blocks of queries against their own keys and their neighbours'."""

    @staticmethod
    def forward(ctx: Any, qkv_TN3D: Tensor, reach: Reach, packed: PackedRows, exchange: Exchange | None) -> Tensor:
        kv = _with_neighbours(qkv_TN3D[:, :, 1:], reach, exchange)
        mask = packed.block_mask(reach, BLOCK, qkv_TN3D.dtype)
        query_CNQD = _query_blocks(qkv_TN3D[:, :, 0])
        key, value = _key_blocks(kv, reach, query_CNQD.shape[0])
        output_CNQD, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            query_CNQD, key, value, 0.0, False, attn_mask=mask
        )
        ctx.reach, ctx.exchange, ctx.tokens = reach, exchange, qkv_TN3D.shape[0]
        ctx.save_for_backward(query_CNQD, kv, mask, output_CNQD, lse)
        return _from_blocks(output_CNQD, ctx.tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        query_CNQD, kv, mask, output_CNQD, lse = ctx.saved_tensors
        key, value = _key_blocks(kv, ctx.reach, query_CNQD.shape[0])
        d_query, d_key, d_value = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            _query_blocks(gradients[0]), query_CNQD, key, value, output_CNQD, lse, 0.0, False, attn_mask=mask
        )
        tokens, heads, size = ctx.tokens, kv.shape[1], kv.shape[3]
        gradient_TN3D = kv.new_empty(tokens, heads, 3, size)
        gradient_TN3D[:, :, 0] = _from_blocks(d_query, tokens)
        d_kv = torch.zeros_like(kv)
        _add_overlapping(d_kv[:, :, 0], d_key)
        _add_overlapping(d_kv[:, :, 1], d_value)
        left, right = ctx.reach.window
        gradient_TN2D = d_kv[left : left + tokens]
        if ctx.exchange:
            ctx.exchange.return_halo(gradient_TN2D, d_kv[:left], d_kv[left + tokens : left + tokens + right])
        gradient_TN3D[:, :, 1:] = gradient_TN2D
        return gradient_TN3D, None, None, None


def _with_neighbours(kv_TN2D: Tensor, reach: Reach, exchange: Exchange | None) -> Tensor:
    """Keys and values with `left` tokens before and `right` after, filled up to whole blocks: zeros or the halo."""
    left, right = reach.window
    tokens = kv_TN2D.shape[0]
    padded = kv_TN2D.new_empty(left + _round_up(tokens) + right, *kv_TN2D.shape[1:])
    padded[left : left + tokens] = kv_TN2D
    padded[left + tokens :] = 0
    if exchange is None:
        padded[:left] = 0
        return padded
    padded[:left], padded[left + tokens : left + tokens + right] = exchange.halo(kv_TN2D, left, right)
    return padded


def _round_up(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK


def _query_blocks(x_TND: Tensor) -> Tensor:
    """View of whole blocks [C, N, Q, D]; a stream that does not divide is filled up with zeros first."""
    missing = _round_up(x_TND.shape[0]) - x_TND.shape[0]
    if missing:
        x_TND = functional.pad(x_TND, (0, 0, 0, 0, 0, missing))
    return x_TND.reshape(-1, BLOCK, *x_TND.shape[1:]).transpose(1, 2)


def _from_blocks(x_CNQD: Tensor, tokens: int) -> Tensor:
    return x_CNQD.transpose(1, 2).flatten(0, 1)[:tokens]


def _key_blocks(kv: Tensor, reach: Reach, blocks: int) -> tuple[Tensor, Tensor]:
    """Overlapping views [C, N, K, D] of keys and values; no copy."""
    keys = BLOCK + sum(reach.window)
    token, head, which, element = kv.stride()
    size = (blocks, kv.shape[1], keys, kv.shape[3])
    stride = (BLOCK * token, head, token, element)
    key = kv.as_strided(size, stride, kv.storage_offset())
    return key, kv.as_strided(size, stride, kv.storage_offset() + which)


def _add_overlapping(target_PND: Tensor, source_CNKD: Tensor) -> None:
    """Add overlapping blocks to the tokens that they came from, one group of disjoint blocks after the other."""
    blocks, heads, keys, size = source_CNKD.shape
    groups = -(-keys // BLOCK)
    token, head, element = target_PND.stride()
    for group in range(min(groups, blocks)):
        count = -(-(blocks - group) // groups)
        view = target_PND.as_strided(
            (count, heads, keys, size),
            (groups * BLOCK * token, head, token, element),
            target_PND.storage_offset() + group * BLOCK * token,
        )
        view.add_(source_CNKD[group::groups])
