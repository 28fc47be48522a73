"""Bytes that a run holds on disk: its checkpoints, of which all else is a small part."""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import padded_vocabulary
from megatron_ettin.config.weights import weights
from megatron_ettin.cost.memory import MOMENT_BYTES, WEIGHT_BYTES
from megatron_ettin.schedule import batch_schedule

MAIN_COPY_BYTES = 4
"""Weights in fp32 as the optimizer stores them, beside the weights themselves in every precision."""
TENSORS_PER_WEIGHT = 4
"""The weight, its main copy and two moments."""
RECORD_BYTES = 1_860
"""What each stored tensor takes beside its numbers: torch's container, and its entry in the index of the shards."""


@dataclass(frozen=True)
class Disk:
    """Checkpoints of a whole run."""

    checkpoint: int
    """Bytes of one."""
    milestones: int
    """Checkpoints that are kept for good."""
    for_restart: int
    """Checkpoints saved by the clock that stand beside them."""

    @property
    def most(self) -> int:
        """Bytes at the end of the run, and at its peak: a checkpoint by the clock is written before an older one goes,
        but then the milestone of the end is still to come."""
        return (self.milestones + self.for_restart) * self.checkpoint


def disk(config: RunConfig) -> Disk:
    """What a run whose vocabulary is known holds at its end. With ``checkpoint.keep`` 0 none by the clock is counted:
    their number depends on how long the run takes."""
    by_clock = config.checkpoint.keep if config.checkpoint.every_minutes else 0
    return Disk(checkpoint_bytes(config), milestones(config), by_clock)


def checkpoint_bytes(config: RunConfig) -> int:
    """Bytes of one checkpoint: weights in the run's precision, fp32 main weights and two moments, all padded."""
    rows, total = padded_vocabulary(config.model.vocabulary), 0
    each = WEIGHT_BYTES[config.compute.precision] + MAIN_COPY_BYTES + MOMENT_BYTES
    for weight in weights(config.model):
        shape = (rows, *weight.shape[1:]) if weight.split == "vocabulary" else weight.shape
        parts = 1 if weight.split == "copied" else config.layout.tensor * (2 if weight.split == "halves" else 1)
        total += each * math.prod(shape) + TENSORS_PER_WEIGHT * parts * RECORD_BYTES
    return total


def milestones(config: RunConfig, step: int = 0, tokens: int = 0) -> int:
    """Checkpoints by tokens, by steps and at the end that come after ``step`` and ``tokens``, about.

    A step is taken to be full of tokens, and one that is due for two reasons counts twice.
    """
    saving, total, length = config.checkpoint, config.schedule.tokens, config.data.row_length
    if tokens >= total:
        return 0
    count = 1
    if saving.every_tokens:
        count += (total - 1) // saving.every_tokens - tokens // saving.every_tokens
    if saving.every_steps:
        last = batch_schedule(config.batch, length).steps_of(-(-total // length))
        count += max(0, (last - 1) // saving.every_steps - step // saving.every_steps)
    return count
