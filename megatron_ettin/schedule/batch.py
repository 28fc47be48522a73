"""Rows per step as a pure function of the rows consumed, and steps <-> rows in closed form."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from megatron_ettin.config.derived import batch_sizes
from megatron_ettin.config.run import BatchConfig

BatchTable = tuple[tuple[int, int], ...]
"""(first row, rows per step), ascending in both; the last entry has no end."""


def batch_table(batch: BatchConfig, row_length: int) -> BatchTable:
    """The growth of the batch: an equal number of steps at each size below the full one.

    ``warmup_tokens`` is spent in rows of ``row_length`` tokens, rounded to whole steps and at least one step a
    size, so that the table depends on nothing that is measured while training.
    """
    *growing, full = batch_sizes(batch)
    if not growing:
        return ((0, full),)
    steps = max(1, round(batch.warmup_tokens / row_length / sum(growing)))
    table, row = [], 0
    for size in growing:
        table.append((row, size))
        row += steps * size
    return (*table, (row, full))


@dataclass(frozen=True)
class BatchPlan:
    """Steps and rows of a stage; every question costs a binary search in the table."""

    table: BatchTable

    @property
    def first_steps(self) -> list[int]:
        """The step at which each entry of the table begins."""
        steps = [0]
        for (row, size), (following, _) in zip(self.table, self.table[1:], strict=False):
            steps.append(steps[-1] + (following - row) // size)
        return steps

    def rows_at(self, step: int) -> tuple[int, int]:
        """First row and number of rows of a step, from 0."""
        steps = self.first_steps
        entry = bisect_right(steps, step) - 1
        row, size = self.table[entry]
        return row + (step - steps[entry]) * size, size

    def step_of_row(self, row: int) -> int:
        """The step that consumes a row; the inverse of ``rows_at``."""
        entry = bisect_right([first for first, _ in self.table], row) - 1
        first, size = self.table[entry]
        return self.first_steps[entry] + (row - first) // size

    def steps_of(self, rows: int) -> int:
        """Steps until at least ``rows`` rows are consumed."""
        return self.step_of_row(rows - 1) + 1 if rows > 0 else 0


def batch_plan(batch: BatchConfig, row_length: int) -> BatchPlan:
    """The plan of a stage."""
    return BatchPlan(batch_table(batch, row_length))
