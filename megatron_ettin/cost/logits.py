"""Whether logits go through memory on a GPU: modelled time of one logit in a pass with gradients, both ways."""

# H hidden; a logit is one label against one row of the vocabulary; bf16 numbers take two bytes

from __future__ import annotations

from megatron_ettin.cost.hardware import Cluster

BF16, FLOPS_PER_MULTIPLY = 2, 2
WIDEST = 256
"""The widest hidden states of which a tile stays in a multiprocessor's memory while the other operand passes by."""
OWN_MATRIX_SHARE = 0.8
"""What a Triton kernel reaches of the rate of large products by cuBLAS. An assumption."""
EXPONENTIALS = 3.7e12
"""Exponentials a second on an H100, 16 a clock and multiprocessor; own kernels do not hide them behind products."""
WIDE_SHARED_MEMORY = (9, 10)
"""Major compute capabilities whose multiprocessors hold the tiles of these kernels, 227 KB: Hopper and Blackwell."""


def seconds_with_logits(hidden: int, cluster: Cluster, sweeps: int = 3) -> float:
    """Three products by cuBLAS, the first of which writes logits, and sweeps of memory over them between the products.

    Three sweeps: they are read for the statistics, then read and written for the gradients.
    """
    product = max(FLOPS_PER_MULTIPLY * hidden / cluster.matrix, BF16 / cluster.memory)
    return 3 * product + sweeps * BF16 / cluster.memory


def seconds_without_logits(hidden: int, cluster: Cluster) -> float:
    """Two products by own kernels, each with an exponential for every logit, then two by cuBLAS that read gradients."""
    own = FLOPS_PER_MULTIPLY * hidden / (OWN_MATRIX_SHARE * cluster.matrix) + 1 / EXPONENTIALS
    return 2 * own + 2 * max(FLOPS_PER_MULTIPLY * hidden / cluster.matrix, BF16 / cluster.memory)


def keeps_logits(hidden: int, cluster: Cluster) -> bool:
    """Whether it is faster to write logits than to compute them twice: so it is but for the narrowest models."""
    return hidden > WIDEST or seconds_with_logits(hidden, cluster) <= seconds_without_logits(hidden, cluster)
