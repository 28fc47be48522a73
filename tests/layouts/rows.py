"""The rows that every layout trains on: any subset of them is the same rows again."""

from __future__ import annotations

import numpy as np

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from tests.layouts.cases import ROWS

ROW_WITHOUT_LABELS = 1
"""One row of a step has no masked token at all."""


def batch_of(config: RunConfig, rows: range, first_row: int | None = None) -> Batch:
    """Packed rows of random pieces, shorter and longer than the window, each row a function of its number.

    `first_row`: place of the first in its step, where that does not have `ROWS` rows.
    """
    length = config.data.row_length
    parts = [_row(config, row) for row in rows]
    offsets = [index * length for index in range(len(parts))]
    return Batch(
        input_ids_BT=np.stack([ids for ids, _, _, _ in parts]).astype(np.int32),
        positions_BT=np.stack([_positions(bounds) for _, bounds, _, _ in parts]).astype(np.int32),
        cu_seqlens_S=np.concatenate(
            [[0], *[np.array(part[1][1:]) + offset for part, offset in zip(parts, offsets, strict=True)]]
        ).astype(np.int32),
        label_positions_L=np.concatenate(
            [part[2] + offset for part, offset in zip(parts, offsets, strict=True)]
        ).astype(np.int32),
        label_ids_L=np.concatenate([part[3] for part in parts]).astype(np.int32),
        rows_B=np.array(list(rows), dtype=np.int64),
        sources_B=np.zeros(len(parts), dtype=np.int32),
        tokens=length * len(parts),
        first_row=rows[0] % ROWS if first_row is None else first_row,
        causal_B=np.array([is_causal(config, row) for row in rows]) if OBJECTIVES[config.objective].mixes else None,
    )


def is_causal(config: RunConfig, row: int) -> bool:
    """Whether a row predicts next tokens; of a mixed run the rows 1 and 2 of each four, so that kinds meet anywhere."""
    objective = OBJECTIVES[config.objective]
    return row % ROWS in (1, 2) if objective.mixes else objective.causal


def _row(config: RunConfig, row: int) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    length, vocabulary = config.data.row_length, config.model.vocabulary
    random = np.random.default_rng(1_000 + row)
    ids = random.integers(0, vocabulary, length)
    bounds = [0]
    while bounds[-1] < length:
        bounds.append(min(length, bounds[-1] + int(random.integers(1, length))))
    if not is_causal(config, row):
        count = 0 if row == ROW_WITHOUT_LABELS else int(random.integers(1, length // 2))
        positions = np.sort(random.choice(length, count, replace=False))
        return ids, bounds, positions, random.integers(0, vocabulary, count)
    followed = [] if row == ROW_WITHOUT_LABELS else [p for p in range(length) if p + 1 not in bounds]
    positions = np.array(followed, dtype=np.int64)
    return ids, bounds, positions, ids[positions + 1]


def _positions(bounds: list[int]) -> np.ndarray:
    return np.concatenate([np.arange(stop - start) for start, stop in zip(bounds, bounds[1:], strict=False)])
