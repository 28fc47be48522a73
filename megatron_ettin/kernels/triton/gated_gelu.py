"""The gated GELU, gelu(first half) * second half: one pass each way; the backward one reads the input again."""

# R rows, I intermediate size

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_ettin.kernels.triton.launch import KernelCost, launch

ROWS, COLUMNS = 16, 64
"""Of a program; the intermediate sizes of the recipe are multiples of these columns."""
INVERSE_ROOT_OF_TWO = tl.constexpr(0.7071067811865476)
INVERSE_ROOT_OF_TWO_PI = tl.constexpr(0.3989422804014327)


def gated_gelu(gated: Tensor) -> Tensor:
    """gelu(first half) * second half of the last axis, with the exact (erf) GELU: [..., 2 I] -> [..., I]."""
    output: Tensor = _GatedGelu.apply(gated)  # type: ignore[no-untyped-call]
    return output


class _GatedGelu(torch.autograd.Function):
    """Keeps nothing but its input."""

    @staticmethod
    def forward(ctx: Any, gated: Tensor) -> Tensor:
        """[..., 2 I] -> [..., I]."""
        gated = gated.contiguous()
        ctx.save_for_backward(gated)
        width = gated.shape[-1] // 2
        output = gated.new_empty(*gated.shape[:-1], width)
        rows = output.numel() // width
        launch(forward_kernel, _grid(rows, width), gated, output, rows, WIDTH=width, ROWS=ROWS, COLUMNS=COLUMNS)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient of both halves, [..., 2 I]."""
        (gated,) = ctx.saved_tensors
        gradient, d_gated = gradients[0].contiguous(), torch.empty_like(gated)
        width = gated.shape[-1] // 2
        rows = gradient.numel() // width
        launch(
            backward_kernel, _grid(rows, width), gated, gradient, d_gated, rows,
            WIDTH=width, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
        return d_gated


def _grid(rows: int, width: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(width, COLUMNS)


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(gated, output, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile of [R, I]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None].to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < WIDTH)
    first = tl.load(gated + row * (2 * WIDTH) + column, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(gated + row * (2 * WIDTH) + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    activated = 0.5 * first * (1.0 + tl.math.erf(first * INVERSE_ROOT_OF_TWO))
    tl.store(output + row * WIDTH + column, activated * second, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(gated, gradient, d_gated, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The same tile of both halves' gradients."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None].to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < WIDTH)
    place = row * (2 * WIDTH) + column
    first = tl.load(gated + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(gated + place + WIDTH, mask=inside, other=0.0).to(tl.float32)
    upstream = tl.load(gradient + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    below = 0.5 * (1.0 + tl.math.erf(first * INVERSE_ROOT_OF_TWO))
    density = INVERSE_ROOT_OF_TWO_PI * tl.exp(-0.5 * first * first)
    tl.store(d_gated + place, upstream * second * (below + first * density), mask=inside)
    tl.store(d_gated + place + WIDTH, upstream * first * below, mask=inside)


def cost(rows: int, width: int, item: int, *, backward: bool) -> KernelCost:
    """Of one call; ``item``: bytes of a number."""
    numbers = rows * width
    if backward:
        return KernelCost(read=3 * numbers * item, written=2 * numbers * item, operations=14 * numbers)
    return KernelCost(read=2 * numbers * item, written=numbers * item, operations=6 * numbers)
