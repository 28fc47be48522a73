"""Which rows of a step had the largest losses: exchanged only for steps whose numbers are bad."""

# R rows of this data rank's micro-batches

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.observe.records import recorded_step
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.parallel.together import everywhere

NAMED = 3
"""Rows that are named for one step."""


class RowLoss(NamedTuple):
    """A row of a step and its loss."""

    row: int
    """Place among the rows of the step, all data ranks together, from 0."""
    loss: float
    """Mean loss over its labels, in nats; may be nan or infinite."""


def worst_rows(sums_R2: Tensor, batches: Sequence[Batch], groups: Groups) -> tuple[RowLoss, ...]:
    """The rows of a step whose loss is not finite, or where all are, those of the largest losses; at most NAMED.

    ``sums_R2`` are loss sums and label counts of the rows of ``batches``, in their order, without rows off the last
    stage. Every rank calls this and gets the same. One small exchange of objects.
    """
    places = [batch.first_row + row for batch in batches for row in range(batch.rows)]
    mine = list(zip(places, sums_R2.tolist(), strict=False)) if groups.tensor.is_first else []
    sums: defaultdict[int, float] = defaultdict(float)
    labels: defaultdict[int, float] = defaultdict(float)
    for row, (loss, count) in (pair for pairs in everywhere(lambda: mine) for pair in pairs):
        sums[row] += loss  # context ranks share a row
        labels[row] += count
    losses = [RowLoss(row, sums[row] / labels[row]) for row in sorted(sums) if labels[row]]
    wild = [item for item in losses if not math.isfinite(item.loss)]
    return tuple((wild or sorted(losses, key=lambda item: -item.loss))[:NAMED])


def describe(rows: Sequence[RowLoss]) -> str:
    """The rows in words; empty without any."""
    if not rows:
        return ""
    if not math.isfinite(rows[0].loss):
        return f"loss not finite in row {', '.join(str(item.row) for item in rows)}"
    return f"largest losses in row {', '.join(f'{item.row} ({item.loss:.4g})' for item in rows)}"


def look_at(run: Path, step: int, rows: Sequence[RowLoss] = ()) -> str:
    """The command that shows rows of a step: ``rows``, else those that its record names, else all."""
    numbers = [item.row for item in rows] or [row for row, _ in (recorded_step(run, step) or {}).get("worst_rows", [])]
    chosen = f" --row {' '.join(map(str, numbers))}" if numbers else ""
    return f"ettin order {run} --step {step}{chosen} --text"
