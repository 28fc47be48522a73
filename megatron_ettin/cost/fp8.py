"""Whether linear layers in fp8 pay: products take half the time, and every operand is rounded first. Modelled."""

from __future__ import annotations

from dataclasses import replace

from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.count import FLOPS_PER_MULTIPLY
from megatron_ettin.cost.hardware import Cluster
from megatron_ettin.cost.step_time import micro_batch_time

FASTER = 2.0
"""Rate of products in fp8 over that in bf16, as on the datasheet of an H100."""
ROUNDING_BYTES = 7
"""For each number of an operand: read for its largest and to be rounded (bf16, twice), written, and turned for the
product of the other direction (fp8, read and written)."""
PASSES = 3
"""Products of a forward and a backward pass."""


def fp8_saves(config: RunConfig, cluster: Cluster) -> float:
    """Share of a micro-batch's time in bf16 that fp8 in the linear layers saves; below 0 it costs time."""
    model, layout = config.model, config.layout
    tokens = layout.micro_batch_rows * config.data.row_length / layout.context
    hidden, own, inner = model.hidden, model.hidden / layout.tensor, model.intermediate / layout.tensor
    saved = 0.0
    for inputs, outputs in ((hidden, 3 * own), (own, hidden), (hidden, 2 * inner), (inner, hidden)):
        product = PASSES * FLOPS_PER_MULTIPLY * tokens * inputs * outputs / cluster.matrix
        rounded = ROUNDING_BYTES * (tokens * inputs + tokens * outputs + inputs * outputs) / cluster.memory
        saved += product * (1.0 - 1.0 / FASTER) - rounded
    layers = max(0, model.layers - 2 * config.compute.fp8_ends_in_bf16)
    plain = replace(config, compute=replace(config.compute, precision="bf16"))
    return layers * saved / micro_batch_time(plain, cluster).total


def fp8_line(config: RunConfig, cluster: Cluster) -> str:
    """What fp8 would change, for people."""
    saved = fp8_saves(config, cluster)
    if saved <= 0.0:
        return f"costs {-saved:.0%} of a micro-batch at this size (modelled): rounding moves more than products save"
    return f"saves {saved:.0%} of a micro-batch at this size (modelled); the recipe's precision is bf16"
