"""Small runs and packed rows for model tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from megatron_ettin.batch import Batch
from megatron_ettin.config.run import ComputeConfig, DataConfig, ModelConfig, RunConfig, ScheduleConfig

PIECES = (1, 2, 63, 64, 65, 129, 188)
"""Lengths of the pieces of a row of 512: one token, the window's edge on both sides, and beyond two windows."""


def small_model(**changes: Any) -> ModelConfig:
    """Four layers, 0 and 3 global, the published windows, and two rotary bases that differ."""
    shape = ModelConfig(
        size="test", layers=4, hidden=64, intermediate=96, heads=2, vocabulary=250, output_dropout=0.0,
        rope_base_global=160_000.0, rope_base_local=10_000.0,
    )  # fmt: skip
    return replace(shape, **changes)


def run_of(
    objective: str, model: ModelConfig | None = None, row_length: int = 512, precision: str = "fp32", **layout: Any
) -> RunConfig:
    """A run of that model."""
    config = RunConfig(
        objective=objective,
        stage="pretrain",
        model=model or small_model(),
        schedule=ScheduleConfig(tokens=1_000_000, peak_rate=1e-3),
        data=DataConfig(row_length=row_length, piece_length=row_length),
        compute=ComputeConfig(precision=precision, attention="auto"),
    )
    return replace(config, layout=replace(config.layout, **layout))


def batch_of(pieces: tuple[int, ...], vocabulary: int, rows: int = 1, seed: int = 0) -> Batch:
    """Rows of the same pieces with random ids; every position but a piece's last has its successor as label."""
    random = np.random.default_rng(seed)
    length = sum(pieces)
    bounds = np.concatenate([[0], np.cumsum(np.tile(pieces, rows))]).astype(np.int32)
    ids = random.integers(0, vocabulary - 1, (rows, length)).astype(np.int32)
    positions = np.concatenate([np.arange(piece) for piece in np.tile(pieces, rows)]).reshape(rows, length)
    labels = np.setdiff1d(np.arange(rows * length), bounds[1:] - 1).astype(np.int32)
    return Batch(
        input_ids_BT=ids,
        positions_BT=positions.astype(np.int32),
        cu_seqlens_S=bounds,
        label_positions_L=labels,
        label_ids_L=ids.reshape(-1)[labels + 1],
        rows_B=np.arange(rows),
        sources_B=np.zeros(rows, dtype=np.int32),
        tokens=rows * length,
    )
