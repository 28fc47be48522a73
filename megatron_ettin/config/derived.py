"""What follows from a run's fields: batch sizes, rank counts, the default folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megatron_ettin.config.run import BatchConfig, LayoutConfig, RunConfig


def batch_sizes(batch: BatchConfig) -> list[int]:
    """Every number of rows that a step of the stage can have, ascending."""
    if batch.warmup_tokens == 0:
        return [batch.rows]
    return [*range(batch.warmup_increment, batch.rows, batch.warmup_increment), batch.rows]


def model_ranks(layout: LayoutConfig) -> int:
    """Ranks that hold one copy of the model: tensor x pipeline x context."""
    return layout.tensor * layout.pipeline * layout.context


def world_size(layout: LayoutConfig) -> int:
    """Ranks of the whole run; an unset data size counts as 1."""
    return model_ranks(layout) * max(1, layout.data)


def with_world_size(config: RunConfig, world: int) -> RunConfig:
    """The run with its data size filled in from the world size."""
    return replace(config, layout=replace(config.layout, data=world // model_ranks(config.layout)))


def with_vocabulary(config: RunConfig, vocabulary: int) -> RunConfig:
    """The run with an open vocabulary (0) filled in from the tokenizer of the data."""
    if config.model.vocabulary:
        return config
    return replace(config, model=replace(config.model, vocabulary=vocabulary))


def default_run_folder(config: RunConfig) -> Path:
    """Where a run goes when no ``--run`` is given."""
    return Path("runs") / f"{config.model.size}-{config.objective}-{config.stage}"
