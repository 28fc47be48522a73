"""What a run has read: its steps computed again, the steps that saw a document, and the rows between two steps.

Steps are counted as in metrics.jsonl and in the names of checkpoints: step 1 is the first, and checkpoint ``step-N``
has seen the steps 1 to N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.batch import Batch
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import DataError
from megatron_ettin.observe.records import last_recorded_step
from megatron_ettin.rows.data_record import check_unchanged, describe, read_record
from megatron_ettin.rows.order import Rows
from megatron_ettin.rows.stage import StageData, open_stage, with_data
from megatron_ettin.run_folder import DATA_RECORD, METRICS, list_checkpoints, read_config


@dataclass(frozen=True, kw_only=True)
class SeenRow:
    """One row of a step and where its text comes from."""

    number: int
    """Row of the stage's pool; numbers count on over epochs."""
    source: str
    row: int
    """Row in the pack index of the source."""
    pass_number: int
    """How often the source had been read before."""
    pieces: list[tuple[int, int, int]]
    """(document, first text token, text tokens) of each piece."""


@dataclass(frozen=True, kw_only=True)
class SeenStep:
    """One step computed again."""

    step: int
    rows: list[SeenRow]
    batch: Batch
    """All rows of the step, whatever rank computed them."""

    def digest(self) -> str:
        """What metrics.jsonl holds as ``batch`` for this step. Hashes every row."""
        return f"{self.batch.digest():016x}"


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One piece of a document in one step."""

    step: int
    place: int
    """Place of the row among the rows of the step, from 0."""
    number: int
    """Row of the stage's pool."""
    pass_number: int
    start: int
    length: int


def open_run(run: Path) -> tuple[RunConfig, StageData]:
    """The settings and the data of a run folder. Raises ConfigError, DataError when either is not what it was."""
    config = read_config(run)
    known = (Path(run) / DATA_RECORD).exists()
    if known and not Path(config.data.data).is_absolute():
        config = with_data(config, str(read_record(run)["data"]))
    stage = open_stage(config)
    if known:
        check_unchanged(read_record(run), describe(stage), Path(run) / DATA_RECORD)
    return config, stage


def _counted_from_zero(step: int) -> int:
    if step < 1:
        raise DataError(f"step {step} does not exist; the first step of a run is 1")
    return step - 1


def seen_rows(stage: StageData, numbers: Rows) -> list[SeenRow]:
    """Source, pass and pieces of some pool rows."""
    resolved = stage.resolve(numbers)
    return [
        SeenRow(
            number=int(number),
            source=stage.sources[source],
            row=int(row),
            pass_number=int(pass_number),
            pieces=stage.packs[source].native.row(int(row)),
        )
        for number, source, pass_number, row in zip(
            numbers, resolved.sources, resolved.passes, resolved.rows, strict=True
        )
    ]


def seen_step(stage: StageData, step: int) -> SeenStep:
    """The rows, text, masks and labels of a step. Costs the step's own rows, whatever its number."""
    numbers = stage.step_rows(_counted_from_zero(step))
    return SeenStep(step=step, rows=seen_rows(stage, numbers), batch=stage.batch(numbers, stage.config.objective))


def original_ids(batch: Batch, label_offset: int) -> NDArray[np.int32]:
    """The ids of a batch before masking, shape [B, T]."""
    ids = batch.input_ids_BT.copy()
    ids.reshape(-1)[batch.label_positions_L - label_offset] = batch.label_ids_L
    return ids


def sightings(stage: StageData, document: int, last_step: int, source: str | None = None) -> list[Sighting]:
    """Where the steps 1 to ``last_step`` saw a document, in the order of steps.

    Scans one block of the pack index, then inverts the order: O(epochs x passes). An empty list when the document is
    held out, empty, or has not been reached.
    """
    index = _source_index(stage, source)
    if not 0 <= document < stage.corpora[index].documents:
        count = stage.corpora[index].documents
        raise DataError(f"source {stage.sources[index]!r} has no document {document}; it has {count}")
    consumed = sum(stage.rows_at(last_step - 1)) if last_step > 0 else 0
    found = [
        sighting
        for row, start, length in stage.packs[index].native.document(document)
        for sighting in _sightings_of_row(stage, index, row, start, length, consumed)
    ]
    return sorted(found, key=lambda sighting: (sighting.step, sighting.place, sighting.start))


def _source_index(stage: StageData, source: str | None) -> int:
    if source is None and len(stage.sources) == 1:
        return 0
    if source not in stage.sources:
        given = f"there is no source {source!r}" if source else "documents are numbered in each source"
        raise DataError(f"{given}; name one of: {', '.join(stage.sources)}")
    return stage.sources.index(source)


def _sightings_of_row(
    stage: StageData, index: int, row: int, start: int, length: int, consumed: int
) -> Iterator[Sighting]:
    epochs = -(-consumed // stage.pool_rows)
    for number in stage.pool.numbers_of(index, row):
        numbers = number + stage.pool_rows * np.arange(epochs, dtype=np.int64)
        places = stage.order.position_of(numbers)
        passes = stage.resolve(numbers).passes
        for place, pool_row, pass_number in zip(places.tolist(), numbers.tolist(), passes.tolist(), strict=True):
            if place < consumed:
                step = stage.step_of_row(place)
                yield Sighting(
                    step=step + 1, place=place - stage.rows_at(step)[0], number=pool_row, pass_number=pass_number,
                    start=start, length=length,
                )  # fmt: skip


def is_held_out(stage: StageData, document: int, source: str | None = None) -> bool:
    """Whether a document was kept from training."""
    if not stage.config.data.held_out_share:
        return False
    return bool(stage.held_out_packs[_source_index(stage, source)].native.document(document))


def newest_step(run: Path, stage: StageData) -> tuple[int, str]:
    """How far a run has come, and what says so: its newest checkpoint, its metrics, or its settings."""
    if checkpoints := list_checkpoints(run):
        return checkpoints[-1].step, "the newest checkpoint"
    if last := last_recorded_step(run):
        return last, METRICS
    rows = -(-stage.config.schedule.tokens // stage.config.data.row_length)
    return stage.plan.steps_of(rows), "the tokens of the whole stage"
