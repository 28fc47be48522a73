"""residual + dropout(x) and its LayerNorm in one pass each way; no mask is kept, its bits are made again."""

# T tokens, H hidden, P programs of the backward pass

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_ettin.kernels.dropout import Dropout
from megatron_ettin.kernels.linear import no_gradient
from megatron_ettin.kernels.triton.launch import KernelCost, launch

GROUP = 64
"""Channels that share the words of sixteen counters; see `Dropout`."""
BACKWARD_PROGRAMS = 1024
"""Each adds up the weight's gradient over its tokens, in an order that never changes."""
SUMMED_ROWS, SUMMED_CHANNELS = 128, 32
"""Of those sums a program adds up so many at once."""
VARYING = ["tokens", "key", "step", "layer", "dropped_below"]
"""Numbers that change from call to call: a kernel is compiled once for all of their values."""


def add_norm(
    residual: Tensor, x: Tensor, dropout: Dropout | None, weight_H: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(hidden = residual + dropout(x), LayerNorm of hidden times the weight), both of the shape and type of x.

    The norm is taken of the sum as it is stored, statistics in fp32. x is [T, ..., H], contiguous or made so. The
    weight's gradient is added to its fp32 buffer `main_grad` where it has one.
    """
    hidden, normed = _AddNorm.apply(residual, x, dropout, weight_H, epsilon)  # type: ignore[no-untyped-call]
    return hidden, normed


class _AddNorm(torch.autograd.Function):
    """Keeps the sum, which the layer needs anyway, and two numbers a token."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, x: Tensor, dropout: Dropout | None, weight_H: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Sum and norm."""
        residual, x = residual.contiguous(), x.contiguous()
        hidden, normed = torch.empty_like(x), torch.empty_like(x)
        channels = x.shape[-1]
        tokens = x.numel() // channels
        statistics_2T = torch.empty(2, tokens, dtype=torch.float32, device=x.device)
        launch(
            forward_kernel, (tokens,), residual, x, weight_H, hidden, normed, statistics_2T, tokens, epsilon,
            *_draws(dropout, x), **_constants(dropout, channels),
        )  # fmt: skip
        ctx.save_for_backward(hidden, weight_H, statistics_2T)
        ctx.dropout, ctx.buffer_H = dropout, getattr(weight_H, "main_grad", None)
        return hidden, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of residual, x and weight."""
        hidden, weight_H, statistics_2T = ctx.saved_tensors
        d_hidden, d_normed = (gradient.contiguous() for gradient in gradients)
        channels, tokens = hidden.shape[-1], statistics_2T.shape[1]
        d_residual = torch.empty_like(hidden)
        # without dropout both parts of the sum have the same gradient
        d_x = torch.empty_like(hidden) if ctx.dropout is not None else d_residual
        programs = min(tokens, BACKWARD_PROGRAMS)
        d_weight_PH = torch.empty(programs, channels, dtype=torch.float32, device=hidden.device)
        launch(
            backward_kernel, (programs,), hidden, weight_H, statistics_2T, d_hidden, d_normed, d_residual, d_x,
            d_weight_PH, tokens, triton.cdiv(tokens, max(1, programs)), *_draws(ctx.dropout, hidden),
            **_constants(ctx.dropout, channels),
        )  # fmt: skip
        if ctx.buffer_H is None:
            return d_residual, d_x, None, d_weight_PH.sum(dim=0).to(weight_H.dtype), None
        launch(
            add_weight_kernel, (triton.cdiv(channels, SUMMED_CHANNELS),), d_weight_PH, ctx.buffer_H, programs,
            WIDTH=channels, ROWS=SUMMED_ROWS, COLUMNS=SUMMED_CHANNELS,
        )  # fmt: skip
        return d_residual, d_x, None, no_gradient(weight_H), None


def _draws(dropout: Dropout | None, x: Tensor) -> tuple[Any, ...]:
    """What decides the bits: places, key, step, layer, threshold, scale."""
    if dropout is None:
        return x, 0, 0, 0, 0, 1.0
    return dropout.places_T, dropout.key, dropout.step, dropout.layer, dropout.dropped_below, dropout.scale


def _constants(dropout: Dropout | None, channels: int) -> dict[str, Any]:
    groups = triton.next_power_of_2(triton.cdiv(channels, GROUP))
    warps = min(8, max(1, groups // 4))
    return {"CHANNELS": channels, "GROUPS": groups, "DROPS": dropout is not None, "num_warps": warps}


@triton.jit
def drop(x, places, token, key, step, layer, dropped_below, scale, GROUPS: tl.constexpr):
    """x of one token, scaled, and 0 where its draw is below the threshold: the bits of `Dropout`."""
    place = tl.load(places + token)
    number = tl.arange(0, GROUPS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    counter = (layer << 16 | number).to(tl.uint32)
    zero = tl.zeros_like(counter)
    low, high = zero + (place & 0xFFFFFFFF).to(tl.uint32), zero + (place >> 32).to(tl.uint32)
    one, two, three, four = tl.philox(key, counter, low, high, zero + step.to(tl.uint32))
    # [groups, 16, 2, 2] by words, then channel g * 64 + word * 16 + lane in its order
    words = tl.permute(tl.join(tl.join(one, three), tl.join(two, four)), (0, 2, 3, 1))
    draws = tl.reshape(words, (GROUPS * 64,))
    return tl.where(draws >= dropped_below.to(tl.uint32), x * scale, 0.0)


@triton.jit(do_not_specialize=VARYING)
def forward_kernel(
    residual, x, weight, hidden, normed, statistics, tokens, epsilon,
    places, key, step, layer, dropped_below, scale,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, GROUPS * 64)
    inside = channel < CHANNELS
    place = token * CHANNELS + channel
    added = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if DROPS:
        added = drop(added, places, token, key, step, layer, dropped_below, scale, GROUPS)
    total = tl.load(residual + place, mask=inside, other=0.0).to(tl.float32) + added
    stored = total.to(hidden.dtype.element_ty)
    tl.store(hidden + place, stored, mask=inside)
    total = tl.where(inside, stored.to(tl.float32), 0.0)
    mean = tl.sum(total, axis=0) / CHANNELS
    centred = tl.where(inside, total - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / CHANNELS + epsilon)
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + place, centred * inverse * factor, mask=inside)
    tl.store(statistics + token, mean)
    tl.store(statistics + tokens + token, inverse)


@triton.jit(do_not_specialize=[*VARYING, "tokens_a_program"])
def backward_kernel(
    hidden, weight, statistics, d_hidden, d_normed, d_residual, d_x, d_weight, tokens, tokens_a_program,
    places, key, step, layer, dropped_below, scale,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Some tokens, one after the other."""
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, GROUPS * 64)
    inside = channel < CHANNELS
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros((GROUPS * 64,), dtype=tl.float32)
    for number in range(tokens_a_program):
        token = program * tokens_a_program + number
        valid = inside & (token < tokens)
        place = token * CHANNELS + channel
        mean = tl.load(statistics + token, mask=token < tokens, other=0.0)
        inverse = tl.load(statistics + tokens + token, mask=token < tokens, other=0.0)
        unit = (tl.load(hidden + place, mask=valid, other=0.0).to(tl.float32) - mean) * inverse
        unit = tl.where(valid, unit, 0.0)
        upstream = tl.load(d_normed + place, mask=valid, other=0.0).to(tl.float32)
        sums += upstream * unit
        wanted = upstream * factor
        along = tl.sum(wanted * unit, axis=0) / CHANNELS
        gradient = (wanted - tl.sum(wanted, axis=0) / CHANNELS - unit * along) * inverse
        gradient += tl.load(d_hidden + place, mask=valid, other=0.0).to(tl.float32)
        tl.store(d_residual + place, gradient, mask=valid)
        if DROPS:
            known = tl.minimum(token, tokens - 1)  # the places of a token behind the last are not read
            gradient = drop(gradient, places, known, key, step, layer, dropped_below, scale, GROUPS)
            tl.store(d_x + place, gradient, mask=valid)
    tl.store(d_weight + program * CHANNELS + channel, sums, mask=inside)


@triton.jit(do_not_specialize=["programs"])
def add_weight_kernel(parts, buffer, programs, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds some channels of all programs' sums to the buffer."""
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < WIDTH
    added = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, programs, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        added += tl.load(parts + row * WIDTH + channel[None, :], mask=(row < programs) & inside[None, :], other=0.0)
    before = tl.load(buffer + channel, mask=inside, other=0.0)
    tl.store(buffer + channel, before + tl.sum(added, axis=0), mask=inside)


def add_weight_cost(programs: int, width: int) -> KernelCost:
    """Of adding the programs' sums to the buffer."""
    return KernelCost(read=4 * (programs + 1) * width, written=4 * width, operations=programs * width)


def cost(tokens: int, channels: int, item: int, *, dropout: bool, backward: bool) -> KernelCost:
    """Of one call, without the sum over programs; ``item``: bytes of a number, also of the weight's."""
    numbers, draws = tokens * channels, 8 * tokens if dropout else 0
    if not backward:
        read = 2 * numbers * item + tokens * channels * item + draws
        return KernelCost(read=read, written=2 * numbers * item + 8 * tokens, operations=(8 + dropout) * numbers)
    programs = min(tokens, BACKWARD_PROGRAMS)
    read = 3 * numbers * item + programs * channels * item + 8 * tokens + draws
    written = (1 + dropout) * numbers * item + 4 * programs * channels
    return KernelCost(read=read, written=written, operations=(13 + dropout) * numbers)
