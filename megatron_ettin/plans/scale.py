"""A run at another length: all its token counts multiplied."""

from __future__ import annotations

import math
from dataclasses import replace

from megatron_ettin.config.derived import batch_sizes
from megatron_ettin.config.run import BatchConfig, RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.schedule import batch_schedule

FEWEST_STEPS = 8
"""A stage with fewer steps has no shape: its rise, its fall and its growing batch need steps to happen in."""


def multiplied(config: RunConfig, scale: float) -> RunConfig:
    """The run with every token count of its schedule and batch multiplied."""
    if scale == 1.0:
        return config
    schedule, batch = config.schedule, config.batch

    def part(tokens: int) -> int:
        return max(1, round(tokens * scale)) if tokens else 0  # what there is does not vanish

    return replace(
        config,
        schedule=replace(
            schedule,
            tokens=part(schedule.tokens),
            warmup_tokens=part(schedule.warmup_tokens),
            decay_tokens=part(schedule.decay_tokens),
        ),
        batch=replace(batch, warmup_tokens=part(batch.warmup_tokens)),
    )


def scaled(config: RunConfig, scale: float) -> RunConfig:
    """The run at ``scale`` times its tokens: ends of rise and fall lie at the nearest full step, and rows per step
    grow in steps as coarse as their tokens require. Raises ConfigError for a scale that is no positive number."""
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"--scale {scale:g}: use a positive number, such as 0.01")
    if scale == 1.0:
        return config
    run = multiplied(config, scale)
    step = run.batch.rows * run.data.row_length

    def at_steps(tokens: int) -> int:
        return max(1, round(tokens / step)) * step if tokens else 0

    schedule = replace(
        run.schedule,
        warmup_tokens=at_steps(run.schedule.warmup_tokens),
        decay_tokens=at_steps(run.schedule.decay_tokens),
    )
    return replace(run, schedule=schedule, batch=grown(run.batch, run.data.row_length))


def grown(batch: BatchConfig, row_length: int) -> BatchConfig:
    """The batch with the least increment at which a step of each size fits into its warmup; constant where none is."""
    rows, budget = batch.rows, batch.warmup_tokens / row_length
    if not batch.warmup_tokens:
        return batch
    for increment in range(batch.warmup_increment, rows, batch.warmup_increment):
        coarser = replace(batch, warmup_increment=increment)
        if rows % increment == 0 and sum(batch_sizes(coarser)[:-1]) <= budget:
            return coarser
    return replace(batch, warmup_tokens=0)


def steps_of(config: RunConfig) -> int:
    """Steps of a stage whose rows are full."""
    length = config.data.row_length
    return batch_schedule(config.batch, length).steps_of(-(-config.schedule.tokens // length))


def scale_for(config: RunConfig, tokens: int) -> float:
    """A scale, two digits long, at which a run that has ``tokens`` tokens at scale 1 has FEWEST_STEPS steps."""
    least = FEWEST_STEPS * config.batch.rows * config.data.row_length / tokens
    digit = 10.0 ** (math.floor(math.log10(least)) - 1)
    return float(f"{math.ceil(least / digit) * digit:.2g}")


def too_short(config: RunConfig) -> str:
    """Why a stage is too short to be trained; empty where it is not."""
    steps, length = steps_of(config), config.data.row_length
    if steps >= FEWEST_STEPS:
        return ""
    tokens, rows = config.schedule.tokens, config.batch.rows
    return f"{tokens:,} tokens make {steps} steps of up to {rows} rows of {length:,}, fewer than {FEWEST_STEPS}"
