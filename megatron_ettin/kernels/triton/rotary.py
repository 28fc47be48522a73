"""Rotary position embedding in place: one reading and one writing of queries and keys, values are not touched."""

# T tokens, N heads, D head size; the axis of three holds query, key, value

from __future__ import annotations

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


def cost(tokens: int, heads: int, head_size: int, item: int) -> KernelCost:
    """Of one call; ``item``: bytes of a number."""
    turned, angles = 2 * tokens * heads * head_size, tokens * head_size
    return KernelCost(read=(turned + angles) * item, written=turned * item, operations=3 * turned)
