"""The preset of a run that goes on from a finished model: re-warm, hold, decay, by the number of tokens there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import gcd

from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.named_run import nearest_size
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.config.recipes import BILLION, SIZE_RECIPES
from megatron_ettin.config.run import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    ObserveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    StartConfig,
)

PEAK_SHARES = ((10 * BILLION, 0.5), (BILLION, 0.25), (0, 0.125))
"""(tokens from which it holds, share of the model's own peak rate). Half of the peak is where the recipe's runs of 50B
tokens go on from a finished model. A shorter run has less time to win back what a high rate makes it forget: the
smaller shares are a choice."""
WARMUP_SHARE, LONGEST_WARMUP = 0.06, 3 * BILLION
"""The rise as a share of the tokens: 3B of 50B in the recipe's cross-objective runs, and never longer."""
FALL_SHARE, END_FACTOR = 0.2, 0.02
"""The linear fall at the end, and where it ends: 10B of 50B and 0.02 in the same runs."""
LONGEST_ROW = 8_192
STEPS = 4_096
"""Steps that the batch is chosen for: enough to average over, and one device takes a small batch anyway."""
LEAST_STEP, MOST_STEP = 1 << 15, 1 << 20
"""Tokens of a step."""
MICRO_BATCH_TOKENS = 8_192
"""Tokens of a micro-batch, which one device holds at every published shape."""
EVALUATIONS = 20
"""Held-out evaluations of a run, beside the one before its first step."""
EVALUATION_TOKENS = 1 << 14
"""Of one of them: some 5,000 masked tokens, the same each time; a CPU is to reach its first step soon."""


def adapted_run(
    model: ModelConfig,
    objective: ObjectiveName,
    tokens: int,
    *,
    peak_rate: float = 0.0,
    crosses: bool = False,
    folder: str = "",
    ranks: int = 1,
) -> RunConfig:
    """A run from the weights in ``folder``; ``ranks`` share its rows, and decide on no more than the micro-batch.

    ``peak_rate`` is that of the model's own training; 0: that of the published size nearest in parameters.
    ``crosses``: the weights were trained on another objective.
    """
    size = SIZE_RECIPES[nearest_size(model)]
    share = next(share for least, share in PEAK_SHARES if tokens >= least)
    row = min(LONGEST_ROW, 1 << (model.maximum_length - 1).bit_length())  # powers of two, the longest text within
    step = 1 << max(0, (tokens // STEPS).bit_length() - 1)
    rows = max(1, min(max(step, LEAST_STEP), MOST_STEP) // row)
    return RunConfig(
        objective=objective,
        stage="cross" if crosses else "pretrain",
        model=model,
        schedule=ScheduleConfig(
            tokens=tokens,
            peak_rate=(peak_rate or size.peak_rate) * share,
            shape="trapezoid",
            warmup_tokens=min(round(WARMUP_SHARE * tokens), LONGEST_WARMUP),
            decay_tokens=round(FALL_SHARE * tokens),
            end_factor=END_FACTOR,
        ),
        data=DataConfig(
            row_length=row,
            piece_length=min(row, model.maximum_length),
            mask_share=0.15 if crosses else 0.30,
            held_out_share=0.01,
        ),
        batch=BatchConfig(rows=rows),
        optimizer=OptimizerConfig(weight_decay=size.weight_decay),
        layout=LayoutConfig(micro_batch_rows=micro_batch_rows(rows, row, ranks)),
        checkpoint=CheckpointConfig(every_tokens=0),
        observe=ObserveConfig(
            evaluate_every=max(1, tokens // (rows * row) // EVALUATIONS),
            evaluate_rows=max(2, EVALUATION_TOKENS // row),
            evaluate_start=True,
        ),
        start=StartConfig(huggingface=folder),
        seed=21,
    )


def micro_batch_rows(rows: int, row_length: int, ranks: int) -> int:
    """Rows of a micro-batch that one device holds and that the ranks share evenly, of a step of ``rows`` rows."""
    return gcd(max(1, rows // ranks), max(1, MICRO_BATCH_TOKENS // row_length))


def following(run: RunConfig, given: Collection[str], ranks: int) -> RunConfig:
    """The run with what follows from its rows, where the flags ``given`` say nothing of it."""
    data, layout = run.data, run.layout
    if "--data.piece-length" not in given:
        data = replace(data, piece_length=min(data.piece_length, data.row_length))
    if "--layout.micro-batch-rows" not in given:
        share = ranks // model_ranks(layout) or 1
        layout = replace(layout, micro_batch_rows=micro_batch_rows(run.batch.rows, data.row_length, share))
    return replace(run, data=data, layout=layout)
