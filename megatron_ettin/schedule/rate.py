"""The learning rate as a pure function of the tokens seen in the stage."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from megatron_ettin.config.run import ScheduleConfig

START_FACTOR = 1e-10
"""A rise starts here and not at 0: weight decay is scaled by the rate, and ratios of rates stay finite."""


def warmup_stable(schedule: ScheduleConfig, tokens: float) -> float:
    """Linear rise over ``warmup_tokens``, then 1."""
    if tokens < schedule.warmup_tokens:
        return max(START_FACTOR, tokens / schedule.warmup_tokens)
    return 1.0


def one_minus_sqrt(schedule: ScheduleConfig, tokens: float) -> float:
    """From 1 to ``end_factor`` over the whole stage, as 1 - sqrt of the share that has passed."""
    passed = min(1.0, tokens / schedule.tokens)
    return schedule.end_factor + (1.0 - schedule.end_factor) * (1.0 - sqrt(passed))


def trapezoid(schedule: ScheduleConfig, tokens: float) -> float:
    """Linear rise, then 1, then a linear fall to ``end_factor`` over the last ``decay_tokens``."""
    left = schedule.tokens - tokens
    if left < schedule.decay_tokens:
        return schedule.end_factor + (1.0 - schedule.end_factor) * max(0.0, left) / schedule.decay_tokens
    return warmup_stable(schedule, tokens)


SHAPES: dict[str, Callable[[ScheduleConfig, float], float]] = {
    "warmup_stable": warmup_stable,
    "one_minus_sqrt": one_minus_sqrt,
    "trapezoid": trapezoid,
}


def learning_rate_factor(schedule: ScheduleConfig, tokens: float) -> float:
    """Share of ``peak_rate`` after ``tokens`` of the stage; past its end the last value holds."""
    return SHAPES[schedule.shape](schedule, tokens)
