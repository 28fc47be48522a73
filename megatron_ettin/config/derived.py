"""What follows from a run's fields: batch sizes, rank counts."""

from __future__ import annotations

from dataclasses import replace

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import BatchConfig, LayoutConfig, RunConfig, StageName
from megatron_ettin.config.shapes import is_global

STAGE_NUMBERS: dict[StageName, int] = {"pretrain": 0, "extension": 1, "decay": 2, "cross": 3}
"""What a stage is called in the keys of order and masks; part of the file format of past runs, so never renumbered."""


def stage_number(config: RunConfig) -> int:
    """What the stage of a run is called in the keys of order and masks."""
    return STAGE_NUMBERS[config.stage] if config.data.stage_number < 0 else config.data.stage_number


def batch_sizes(batch: BatchConfig) -> list[int]:
    """Every number of rows that a step of the stage can have, ascending."""
    if batch.warmup_tokens == 0:
        return [batch.rows]
    return [*range(batch.warmup_increment, batch.rows, batch.warmup_increment), batch.rows]


def model_ranks(layout: LayoutConfig) -> int:
    """Ranks that hold one copy of the model: tensor x pipeline x context."""
    return layout.tensor * layout.pipeline * layout.context


def with_world_size(config: RunConfig, world: int) -> RunConfig:
    """The run with its data size filled in from the world size."""
    return replace(config, layout=replace(config.layout, data=world // model_ranks(config.layout)))


def with_vocabulary(config: RunConfig, vocabulary: int) -> RunConfig:
    """The run with an open vocabulary (0) filled in from the tokenizer of the data."""
    if config.model.vocabulary:
        return config
    return replace(config, model=replace(config.model, vocabulary=vocabulary))


def last_layer_can_narrow(config: RunConfig) -> bool:
    """Whether the last layer may restrict itself to the positions that are wanted behind it.

    A query that sees its whole piece does not depend on which others are computed; a window or a causal mask counts
    neighbours. Tensor ranks exchange whole slices, and fp8 matrices come in multiples of 16 rows.
    """
    whole = is_global(config.model, config.model.layers - 1) and not OBJECTIVES[config.objective].causal
    return whole and config.layout.tensor == 1 and config.compute.precision != "fp8"
