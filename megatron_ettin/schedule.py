"""Learning rate and batch size as pure functions of what a stage has seen; steps <-> rows in closed form."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from megatron_ettin.config.derived import batch_sizes
from megatron_ettin.config.run import BatchConfig, ScheduleConfig

START_FACTOR = 1e-10
"""A rise starts here and not at 0: weight decay is scaled by the rate, and ratios of rates stay finite."""

BatchTable = tuple[tuple[int, int], ...]
"""(first row, rows per step), ascending in both; the last size has no end."""


@dataclass(frozen=True)
class BatchSchedule:
    """Steps and rows of a stage; every question costs a binary search in the table."""

    table: BatchTable

    @property
    def first_steps(self) -> list[int]:
        """The step at which each size of the table begins."""
        steps = [0]
        for (row, size), (following, _) in zip(self.table, self.table[1:], strict=False):
            steps.append(steps[-1] + (following - row) // size)
        return steps

    def rows_at(self, step: int) -> tuple[int, int]:
        """First row and number of rows of a step, from 0."""
        steps = self.first_steps
        place = bisect_right(steps, step) - 1
        row, size = self.table[place]
        return row + (step - steps[place]) * size, size

    def step_of_row(self, row: int) -> int:
        """The step that consumes a row; the inverse of ``rows_at``."""
        place = bisect_right([first for first, _ in self.table], row) - 1
        first, size = self.table[place]
        return self.first_steps[place] + (row - first) // size

    def steps_of(self, rows: int) -> int:
        """Steps until at least ``rows`` rows are consumed."""
        return self.step_of_row(rows - 1) + 1 if rows > 0 else 0


def batch_schedule(batch: BatchConfig, row_length: int) -> BatchSchedule:
    """The steps and rows of a stage, with an equal number of steps at each size below the full one.

    ``warmup_tokens`` is spent in rows of ``row_length`` tokens, rounded to whole steps and at least one step a
    size, so that the table depends on nothing that is measured while training.
    """
    *growing, full = batch_sizes(batch)
    steps = max(1, round(batch.warmup_tokens / row_length / sum(growing))) if growing else 0
    table, row = [], 0
    for size in growing:
        table.append((row, size))
        row += steps * size
    return BatchSchedule((*table, (row, full)))


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
