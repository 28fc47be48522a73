"""Rotary position embedding in place: one reading and one writing of queries and keys, values are not touched.

Attention kernels return three gradients, which have to lie side by side for the projection's backward pass: the kernel
that puts them there turns two of them back on the way.
"""

# T tokens, N heads, D head size; the axis of three holds query, key, value

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_ettin.kernels.triton.launch import KernelCost, launch

TOKENS_A_PROGRAM = 16
"""Each program reads the angles of so many tokens once, for all of their heads."""


def rotate_(qkv_TN3D: Tensor, cosine_TD: Tensor, sine_TD: Tensor) -> None:
    """Turn queries and keys in place by the tables [T, D/2]: pairs (i, i + D/2) of a contiguous [T, N, 3, D].

    Raises ValueError for a projection with gaps, of which an in-place kernel would turn something else.
    """
    tokens, heads, _, size = qkv_TN3D.shape
    if not qkv_TN3D.is_contiguous():
        raise ValueError("the rotary embedding takes a contiguous projection [tokens, heads, 3, head size]")
    launch(
        rotate_kernel, (triton.cdiv(tokens, TOKENS_A_PROGRAM),), qkv_TN3D, cosine_TD.contiguous(),
        sine_TD.contiguous(), tokens, HEADS=heads, HALF=size // 2, COLUMNS=triton.next_power_of_2(size // 2),
        TOKENS=TOKENS_A_PROGRAM, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])
def rotate_kernel(
    qkv, cosine, sine, tokens, HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr
):
    """Some tokens: for each head first * cosine - second * sine, second * cosine + first * sine, in fp32."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None].to(tl.int64)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (token < tokens) & (column < HALF)
    turn = token * HALF + column
    cos = tl.load(cosine + turn, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sine + turn, mask=inside, other=0.0).to(tl.float32)
    for part in range(2 * HEADS):  # of the three parts of a head, query and key are turned
        place = qkv + (token * HEADS + part // 2) * (6 * HALF) + part % 2 * (2 * HALF) + column
        first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, first * cos - second * sin, mask=inside)
        tl.store(place + HALF, second * cos + first * sin, mask=inside)


def turn_back(query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, cosine_TD: Tensor, sine_TD: Tensor) -> Tensor:
    """Gradients of turned queries and keys, and of values, each [T, N, D] -> those before the turn, [T, N, 3, D]."""
    tokens, heads, size = query_TND.shape
    joined_TN3D = torch.empty(tokens, heads, 3, size, dtype=query_TND.dtype, device=query_TND.device)
    launch(
        turn_back_kernel, (triton.cdiv(tokens, TOKENS_A_PROGRAM),), query_TND.contiguous(), key_TND.contiguous(),
        value_TND.contiguous(), cosine_TD.contiguous(), sine_TD.contiguous(), joined_TN3D, tokens, HEADS=heads,
        HALF=size // 2, COLUMNS=triton.next_power_of_2(size // 2), TOKENS=TOKENS_A_PROGRAM, num_warps=4,
    )  # fmt: skip
    return joined_TN3D


@triton.jit(do_not_specialize=["tokens"])
def turn_back_kernel(
    query, key, value, cosine, sine, joined, tokens,
    HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Some tokens: for each head first * cosine + second * sine, second * cosine - first * sine, in fp32."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None].to(tl.int64)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (token < tokens) & (column < HALF)
    turn = token * HALF + column
    cos = tl.load(cosine + turn, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sine + turn, mask=inside, other=0.0).to(tl.float32)
    for head in range(HEADS):
        source = (token * HEADS + head) * (2 * HALF) + column
        place = joined + (token * HEADS + head) * (6 * HALF) + column
        first = tl.load(query + source, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(query + source + HALF, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, first * cos + second * sin, mask=inside)
        tl.store(place + HALF, second * cos - first * sin, mask=inside)
        first = tl.load(key + source, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(key + source + HALF, mask=inside, other=0.0).to(tl.float32)
        tl.store(place + 2 * HALF, first * cos + second * sin, mask=inside)
        tl.store(place + 3 * HALF, second * cos - first * sin, mask=inside)
        tl.store(place + 4 * HALF, tl.load(value + source, mask=inside), mask=inside)
        tl.store(place + 5 * HALF, tl.load(value + source + HALF, mask=inside), mask=inside)


def turn_back_cost(tokens: int, heads: int, head_size: int, item: int) -> KernelCost:
    """Of one call of the kernel that joins; ``item``: bytes of a number."""
    part, angles = tokens * heads * head_size, tokens * head_size
    return KernelCost(read=(3 * part + angles) * item, written=3 * part * item, operations=6 * part)


def cost(tokens: int, heads: int, head_size: int, item: int) -> KernelCost:
    """Of one call; ``item``: bytes of a number."""
    turned, angles = 2 * tokens * heads * head_size, tokens * head_size
    return KernelCost(read=(turned + angles) * item, written=turned * item, operations=3 * turned)
