"""The two passes over logits that make losses and gradients: one reading, then one reading and one writing."""

# L labels, V vocabulary rows of this tensor rank, G groups of labels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_ettin.kernels.triton.launch import KernelCost, launch

COLUMNS_AT_ONCE = 4096
"""Logits of a label that a program holds at once in the first pass."""
TILE_LABELS, TILE_COLUMNS = 8, 256
"""What a program of the second pass holds at once."""
GROUP_LABELS = 128
"""Labels whose gradients for the bias one program adds up; the sums of the groups are added behind it, in their order,
so that the same logits give the same bits."""


def softmax_statistics(
    logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(highest logit, sum of exp(logit - highest), the label's logit or 0 where another rank holds it), each fp32 [L].

    The logits, fp32 or bf16, come without bias and are contiguous. The sum is kept relative to the highest logit so
    far, as Milakov and Gimelshein do (arXiv 1805.02867): one reading suffices.
    """
    labels, columns = logits_LV.shape
    found_3L = torch.empty(3, labels, dtype=torch.float32, device=logits_LV.device)
    launch(
        statistics_kernel, (labels,), logits_LV, bias_V, label_ids_L, found_3L, labels, columns, first_row,
        COLUMNS=COLUMNS_AT_ONCE, num_warps=8,
    )  # fmt: skip
    top_L, sum_L, label_L = found_3L
    return top_L, sum_L, label_L


@triton.jit(do_not_specialize=["labels", "first_row"])
def statistics_kernel(logits, bias, label_ids, found, labels, columns, first_row, COLUMNS: tl.constexpr):
    """All logits of one label."""
    label = tl.program_id(0).to(tl.int64)
    row = logits + label * columns
    top, total = float("-inf"), 0.0
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < columns
        biased = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
        biased += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        biased = tl.where(inside, biased, float("-inf"))
        higher = tl.maximum(top, tl.max(biased, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(biased - higher), axis=0)
        top = higher
    wanted = tl.load(label_ids + label) - first_row
    mine = (wanted >= 0) & (wanted < columns)
    at_label = tl.load(row + wanted, mask=mine, other=0.0).to(tl.float32)
    at_label += tl.load(bias + wanted, mask=mine, other=0.0).to(tl.float32)
    tl.store(found + label, top)
    tl.store(found + labels + label, total)
    tl.store(found + 2 * labels + label, at_label)


def softmax_gradients_(
    logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int, log_sum_L: Tensor
) -> Tensor:
    """Turns logits into d loss / d logits in place; returns the gradient of the bias [V] in fp32."""
    labels, columns = logits_LV.shape
    groups = triton.cdiv(labels, GROUP_LABELS)
    sums_GV = torch.empty(groups, columns, dtype=torch.float32, device=logits_LV.device)
    launch(
        gradients_kernel, (groups, triton.cdiv(columns, TILE_COLUMNS)), logits_LV, bias_V, label_ids_L, log_sum_L,
        sums_GV, labels, columns, first_row, LABELS=TILE_LABELS, COLUMNS=TILE_COLUMNS, GROUP=GROUP_LABELS,
    )  # fmt: skip
    return sums_GV.sum(dim=0)


@triton.jit(do_not_specialize=["labels", "first_row"])
def gradients_kernel(
    logits, bias, label_ids, log_sums, sums, labels, columns, first_row,
    LABELS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Some columns of the labels of one group: share of the vocabulary entry, less 1 at the label."""
    group = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    known = column < columns
    offset = tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
    added = tl.zeros((LABELS, COLUMNS), dtype=tl.float32)
    for start in range(0, GROUP, LABELS):
        label = group * GROUP + start + tl.arange(0, LABELS)[:, None].to(tl.int64)
        there = label < labels
        inside = there & known
        log_sum = tl.load(log_sums + label, mask=there, other=0.0)
        wanted = tl.load(label_ids + label, mask=there, other=-1) - first_row
        biased = tl.load(logits + label * columns + column, mask=inside, other=0.0).to(tl.float32) + offset
        gradient = tl.exp(biased - log_sum) - tl.where(column == wanted, 1.0, 0.0)
        added += tl.where(inside, gradient, 0.0)
        tl.store(logits + label * columns + column, gradient, mask=inside)
    tl.store(sums + group.to(tl.int64) * columns + column, tl.sum(added, axis=0)[None, :], mask=known)


def statistics_cost(labels: int, columns: int, item: int) -> KernelCost:
    """Of the first pass; ``item``: bytes of a logit and of a number of the bias."""
    # the label's id, its logit and its bias beside the whole row and the bias
    read = labels * (2 * columns * item + 8 + 2 * item)
    return KernelCost(read=read, written=12 * labels, operations=5 * labels * columns)


def gradients_cost(labels: int, columns: int, item: int) -> KernelCost:
    """Of the second pass, without the sum over groups."""
    groups, tiles = triton.cdiv(labels, GROUP_LABELS), triton.cdiv(columns, TILE_COLUMNS)
    read = labels * columns * item + groups * columns * item + tiles * labels * (8 + 4)
    return KernelCost(
        read=read, written=labels * columns * item + 4 * groups * columns, operations=5 * labels * columns
    )
