"""The runs and batches of the rows, alike for both sides."""

# B rows, T tokens of a row, L labels

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.gpu_parts.machine import MICRO_BATCHES, Machine
from benchmarks.gpu_parts.rows import Row
from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    LayoutConfig,
    RunConfig,
    ScheduleConfig,
)

RATE = 1e-4
MASK_SHARE = 0.3
DROPOUT = 0.1
"""The recipe's."""
MEDIAN_PIECE, SPREAD = 400.0, 1.1
"""Tokens of a text of the web, and the standard deviation of their logarithm: most are shorter than a row."""


def run_of(row: Row, machine: Machine, rows: int) -> RunConfig:
    """The run of a row, with that many rows in a micro-batch."""
    length = machine.row_length(row.row_length)
    compute = ComputeConfig(
        precision=row.precision,  # type: ignore[arg-type]
        attention=row.backend,  # type: ignore[arg-type]
        compile=row.compile,
        kernels=row.kernels,  # type: ignore[arg-type]
        loss_chunk_bytes=row.loss_chunk_mebibytes << 20,
    )
    if row.precision == "fp8":
        compute = replace(compute, fp8_recipe=row.fp8_recipe, fp8_ends_in_bf16=row.fp8_recipe != "delayed")
    return RunConfig(
        objective=row.objective,  # type: ignore[arg-type]
        stage="pretrain",
        model=replace(machine.shape(row.size), output_dropout=DROPOUT if row.is_recipe else 0.0),
        schedule=ScheduleConfig(tokens=10**9, peak_rate=RATE),
        data=DataConfig(row_length=length, piece_length=length, mask_share=MASK_SHARE),
        batch=BatchConfig(rows=rows * MICRO_BATCHES),
        layout=LayoutConfig(micro_batch_rows=rows, data=1),
        compute=compute,
    )


def batches(config: RunConfig, count: int = MICRO_BATCHES, *, packed: bool = False) -> list[Batch]:
    """The micro-batches of a step: one piece a row, or as many as fill it, and random ids."""
    length, rows = config.data.row_length, config.layout.micro_batch_rows
    made = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        pieces = [pieces_of_row(length, random) if packed else [length] for _ in range(rows)]
        made.append(batch_of(config, tuple(piece for row in pieces for piece in row), seed))
    return made


def pieces_of_row(length: int, random: np.random.Generator) -> list[int]:
    """Lengths of pieces that fill a row; the last one is cut, as the last piece of a long text is."""
    pieces = []
    while (left := length - sum(pieces)) > 0:
        pieces.append(min(left, max(2, round(MEDIAN_PIECE * float(np.exp(SPREAD * random.standard_normal()))))))
    return pieces


def batch_of(config: RunConfig, pieces: tuple[int, ...], seed: int) -> Batch:
    """One micro-batch of pieces end to end; about 30 % of an encoder's positions have a label, a decoder's next ids."""
    random = np.random.default_rng(seed)
    rows, length = config.layout.micro_batch_rows, config.data.row_length
    ids = random.integers(5, config.model.vocabulary, rows * length).astype(np.int32)
    bounds = np.concatenate([[0], np.cumsum(pieces)]).astype(np.int32)
    if OBJECTIVES[config.objective].causal:
        labels = np.setdiff1d(np.arange(ids.size), bounds[1:] - 1)
        targets = ids[labels + 1]
    else:
        labels = np.flatnonzero(random.random(ids.size) < config.data.mask_share)
        targets = random.integers(5, config.model.vocabulary, labels.size)
    return Batch(
        input_ids_BT=ids.reshape(rows, length),
        positions_BT=np.concatenate([np.arange(piece) for piece in pieces]).reshape(rows, length).astype(np.int32),
        cu_seqlens_S=bounds,
        label_positions_L=labels.astype(np.int32),
        label_ids_L=targets.astype(np.int32),
        rows_B=np.arange(rows),
        sources_B=np.zeros(rows, dtype=np.int32),
        tokens=ids.size,
    )
