"""Statistics and gradients of the cross-entropy of hidden @ weight^T + bias, whose logits are never in memory.

The usual way writes the logits, reads them for the statistics, and reads and writes them for the gradients: 8 bytes a
logit in bf16 beside the products. Here the first pass keeps logits in registers, and the second computes them again
and writes gradients alone, for cuBLAS to multiply: 2 bytes, for one product more. `megatron_ettin/cost/logits.py` says
for which widths that is faster. Gradients of hidden states and weight within a kernel as well would take 10 products'
work in place of 8 and of the usual 6.
"""

# L labels, V vocabulary rows of this tensor rank, H hidden, P parts of the vocabulary, G groups of labels

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_ettin.kernels.triton.launch import KernelCost, launch

TILE_LABELS, TILE_COLUMNS, PART_COLUMNS = 256, 64, 2048
"""A program of the first pass keeps the hidden states of so many labels; a part of the vocabulary passes by, some rows
at a time. A tile that is kept fills half of the memory of a Hopper multiprocessor: the other operand comes from the L2
cache at half of its rate."""
KEPT_COLUMNS, PASSING_LABELS, GROUP_LABELS = 256, 64, 2048
"""A program of the second pass keeps vocabulary rows, and a group of labels passes by: the bias's gradient is a sum
within the program. The sums of the groups are added behind it, in their order, so that the same numbers give the same
bits."""
GATHERED_LABELS = 16
"""Labels whose vocabulary rows a program gathers for the labels' own logits."""
LOG2_E = tl.constexpr(1.4426950408889634)
"""Exponentials are powers of two here: a multiplication less for each logit."""


def linear_softmax_statistics(
    hidden_LH: Tensor, weight_VH: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(highest logit, sum of exp(logit - highest)) of each part of the vocabulary, fp32 [P, L], and the label's, [L].

    The label's logit is 0 where another tensor rank holds its row. Operands are contiguous and of one type, bf16 on a
    GPU: products of fp32 numbers would be rounded.
    """
    (labels, hidden), columns = hidden_LH.shape, weight_VH.shape[0]
    parts = max(1, triton.cdiv(columns, PART_COLUMNS))
    top_PL, sum_PL = torch.empty(2, parts, labels, dtype=torch.float32, device=hidden_LH.device)
    launch(
        statistics_kernel, (triton.cdiv(labels, TILE_LABELS), parts), hidden_LH, weight_VH, bias_V, top_PL, sum_PL,
        labels, columns, **_widths(hidden), LABELS=TILE_LABELS, COLUMNS=TILE_COLUMNS, PART=PART_COLUMNS, num_warps=8,
        num_stages=3,
    )  # fmt: skip
    label_L = torch.empty(labels, dtype=torch.float32, device=hidden_LH.device)
    launch(
        label_logits_kernel, (triton.cdiv(labels, GATHERED_LABELS),), hidden_LH, weight_VH, bias_V, label_ids_L,
        label_L, labels, columns, first_row, **_widths(hidden), LABELS=GATHERED_LABELS,
    )  # fmt: skip
    return top_PL, sum_PL, label_L


def linear_softmax_gradients(
    hidden_LH: Tensor, weight_VH: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int, log_sum_L: Tensor,
    gradients_LV: Tensor,
) -> Tensor:  # fmt: skip
    """Writes d loss / d logits [L, V]; returns the gradient of the bias [V] in fp32."""
    (labels, hidden), columns = hidden_LH.shape, weight_VH.shape[0]
    groups = triton.cdiv(labels, GROUP_LABELS)
    sums_GV = torch.empty(groups, columns, dtype=torch.float32, device=hidden_LH.device)
    launch(
        gradients_kernel, (triton.cdiv(columns, KEPT_COLUMNS), groups), hidden_LH, weight_VH, bias_V, label_ids_L,
        log_sum_L, gradients_LV, sums_GV, labels, columns, first_row, **_widths(hidden), COLUMNS=KEPT_COLUMNS,
        LABELS=PASSING_LABELS, GROUP=GROUP_LABELS, num_warps=8, num_stages=2,
    )  # fmt: skip
    return sums_GV.sum(dim=0)


def _widths(hidden: int) -> dict[str, Any]:
    return {"HIDDEN": hidden, "WIDTH": max(16, triton.next_power_of_2(hidden))}


@triton.jit(do_not_specialize=["labels", "first_row"])
def label_logits_kernel(
    hidden, weight, bias, label_ids, found, labels, columns, first_row,
    HIDDEN: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """The logits of some labels, 0 where another rank holds the row."""
    label = tl.program_id(0) * LABELS + tl.arange(0, LABELS).to(tl.int64)
    channel = tl.arange(0, WIDTH)[None, :]
    wanted = tl.load(label_ids + label, mask=label < labels, other=-1) - first_row
    mine = (wanted >= 0) & (wanted < columns)
    inside = mine[:, None] & (channel < HIDDEN)
    rows = tl.load(weight + wanted[:, None] * HIDDEN + channel, mask=inside, other=0.0).to(tl.float32)
    states = tl.load(hidden + label[:, None] * HIDDEN + channel, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + wanted, mask=mine, other=0.0).to(tl.float32)
    tl.store(found + label, tl.sum(rows * states, axis=1) + offset, mask=label < labels)


@triton.jit(do_not_specialize=["labels"])
def statistics_kernel(
    hidden, weight, bias, tops, sums, labels, columns,
    HIDDEN: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Some labels against one part of the vocabulary."""
    label = tl.program_id(0) * LABELS + tl.arange(0, LABELS)
    channel = tl.arange(0, WIDTH)
    states = tl.load(
        hidden + label[:, None].to(tl.int64) * HIDDEN + channel[None, :],
        mask=(label[:, None] < labels) & (channel[None, :] < HIDDEN), other=0.0,
    )  # fmt: skip
    top = tl.full((LABELS,), float("-inf"), tl.float32)
    total = tl.zeros((LABELS,), tl.float32)
    first = tl.program_id(1) * PART
    for start in tl.range(first, tl.minimum(first + PART, columns), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        rows = tl.load(
            weight + column[None, :].to(tl.int64) * HIDDEN + channel[:, None],
            mask=(column[None, :] < columns) & (channel[:, None] < HIDDEN), other=0.0,
        )  # fmt: skip
        offset = tl.load(bias + column, mask=column < columns, other=float("-inf")).to(tl.float32) * LOG2_E
        logit = tl.dot(states, rows) * LOG2_E + offset[None, :]
        higher = tl.maximum(top, tl.max(logit, axis=1))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(logit - higher[:, None]), axis=1)
        top = higher
    place = tl.program_id(1).to(tl.int64) * labels + label
    tl.store(tops + place, top / LOG2_E, mask=label < labels)
    tl.store(sums + place, total, mask=label < labels)


@triton.jit(do_not_specialize=["labels", "first_row"])
def gradients_kernel(
    hidden, weight, bias, label_ids, log_sums, gradients, bias_sums, labels, columns, first_row,
    HIDDEN: tl.constexpr, WIDTH: tl.constexpr, LABELS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Some vocabulary rows against one group of labels: share of the vocabulary entry, less 1 at the label."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.arange(0, WIDTH)
    known = column < columns
    rows = tl.load(
        weight + column[:, None].to(tl.int64) * HIDDEN + channel[None, :],
        mask=known[:, None] & (channel[None, :] < HIDDEN), other=0.0,
    )  # fmt: skip
    offset = tl.load(bias + column, mask=known, other=0.0).to(tl.float32) * LOG2_E
    added = tl.zeros((COLUMNS,), tl.float32)
    first = tl.program_id(1) * GROUP
    for start in tl.range(first, tl.minimum(first + GROUP, labels), LABELS):
        label = start + tl.arange(0, LABELS)
        there = label < labels
        states = tl.load(
            hidden + label[None, :].to(tl.int64) * HIDDEN + channel[:, None],
            mask=there[None, :] & (channel[:, None] < HIDDEN), other=0.0,
        )  # fmt: skip
        log_sum = tl.load(log_sums + label, mask=there, other=float("inf")) * LOG2_E
        wanted = tl.load(label_ids + label, mask=there, other=-1) - first_row
        share = tl.exp2(tl.dot(rows, states) * LOG2_E + offset[:, None] - log_sum[None, :])
        gradient = tl.where(column[:, None] == wanted[None, :], share - 1.0, share)
        added += tl.sum(gradient, axis=1)
        tl.store(
            gradients + label[None, :].to(tl.int64) * columns + column[:, None], gradient,
            mask=known[:, None] & there[None, :],
        )  # fmt: skip
    tl.store(bias_sums + tl.program_id(1).to(tl.int64) * columns + column, added, mask=known)

def statistics_cost(labels: int, columns: int, hidden: int, item: int) -> KernelCost:
    """Of the first pass without the labels' own logits; ``item``: bytes of a number.

    Most of what is read comes from the L2 cache, once for each tile that is kept: memory gives each operand once.
    """
    tiles, parts = triton.cdiv(labels, TILE_LABELS), max(1, triton.cdiv(columns, PART_COLUMNS))
    read = (parts * labels * hidden + tiles * columns * (hidden + 1)) * item
    return KernelCost(read=read, written=8 * parts * labels, **_operations(labels * columns, hidden))


def label_logits_cost(labels: int, hidden: int, item: int) -> KernelCost:
    """Of the labels' own logits, all of whose rows are on this rank."""
    read = labels * (2 * hidden + 1) * item + 8 * labels
    return KernelCost(read=read, written=4 * labels, operations=labels * 2 * hidden)


def gradients_cost(labels: int, columns: int, hidden: int, item: int) -> KernelCost:
    """Of the second pass, without the sum over groups; reads as in the first."""
    tiles, groups = triton.cdiv(columns, KEPT_COLUMNS), triton.cdiv(labels, GROUP_LABELS)
    read = (tiles * labels * hidden + groups * columns * (hidden + 1)) * item + tiles * labels * (8 + 4)
    written = labels * columns * item + 4 * groups * columns
    return KernelCost(read=read, written=written, **_operations(labels * columns, hidden))


def _operations(logits: int, hidden: int) -> dict[str, int]:
    return {"operations": logits * (2 * hidden + 6), "products": logits * 2 * hidden, "exponentials": logits}
