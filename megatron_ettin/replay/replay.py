"""What a run has read: its steps computed again, the steps that saw a document, and the rows between two steps.

Steps are counted as in metrics.jsonl and in the names of checkpoints: step 1 is the first, and checkpoint ``step-N``
has seen the steps 1 to N.
"""

# B rows, T tokens of a row, L labels

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import SPECIALS_PER_PIECE
from megatron_ettin.corpus.places import Places
from megatron_ettin.errors import DataError
from megatron_ettin.observe.records import last_recorded_step, recorded_step
from megatron_ettin.rows.data_record import data_facts, read_data_record, refuse_changed_data
from megatron_ettin.rows.order import RowNumbers
from megatron_ettin.rows.run_data import RunData, open_data
from megatron_ettin.run_folder import DATA_RECORD, METRICS, list_checkpoints, read_config
from megatron_ettin.tokenizer.tokenizer import Tokenizer

ROWS_AT_ONCE = 1 << 20
"""Numbers of rows that are looked at together: 8 MiB."""


@dataclass(frozen=True, kw_only=True)
class SeenRow:
    """One row of a step and where its text comes from."""

    number: int
    """Row of the pool; numbers count on over epochs."""
    source: str
    row: int
    """Row in the pack index of the source."""
    pass_number: int
    """How often the source had been read before."""
    pieces: list[tuple[int, int, int]]
    """(document, first text token, text tokens) of each piece."""
    objective: ObjectiveName
    """What its tokens are predicted by: the run's objective, or the one that was drawn for the row."""


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
    """Row of the pool."""
    pass_number: int
    start: int
    length: int


def open_run_data(run: Path) -> RunData:
    """The data of a run folder. Raises ConfigError, DataError when settings or data are not what they were."""
    config = read_config(run)
    known = (Path(run) / DATA_RECORD).exists()
    if known and not Path(config.data.data).is_absolute():
        config = replace(config, data=replace(config.data, data=str(read_data_record(run)["data"])))
    data = open_data(config)
    if known:
        refuse_changed_data(read_data_record(run), data_facts(data), Path(run) / DATA_RECORD)
    return data


def seen_rows(data: RunData, numbers: RowNumbers) -> list[SeenRow]:
    """Source, pass, pieces and objective of some pool rows."""
    resolved, names = data.pool.resolve(numbers), data.row_objectives(numbers)
    return [
        SeenRow(
            number=int(number),
            source=data.sources[source],
            row=int(row),
            pass_number=int(pass_number),
            pieces=data.packs[source].native.row(int(row)),
            objective=name,
        )
        for number, source, pass_number, row, name in zip(
            numbers, resolved.sources, resolved.passes, resolved.rows, names, strict=True
        )
    ]


def seen_step(data: RunData, step: int) -> SeenStep:
    """The rows, text, masks and labels of a step. Costs the step's own rows, whatever its number."""
    if step < 1:
        raise DataError(f"step {step} does not exist; the first step of a run is 1")
    numbers = data.step_rows(step - 1)
    return SeenStep(step=step, rows=seen_rows(data, numbers), batch=data.batch(numbers, data.config.objective))


def sources_between(data: RunData, first: int, last: int) -> dict[str, int]:
    """Source -> rows that the steps ``first + 1`` to ``last`` read from it, most first; only sources with any.

    Costs one look at the number of each row, not its text. Raises DataError when the steps are in another order.
    """
    if not 0 <= first < last:
        raise DataError(f"steps {first} to {last}: the second must come after the first, and none is below 0")
    begin, end = data.batch_schedule.rows_at(first)[0], sum(data.batch_schedule.rows_at(last - 1))
    counts = np.zeros(len(data.sources), dtype=np.int64)
    for row in range(begin, end, ROWS_AT_ONCE):
        numbers = data.order.at(row, min(ROWS_AT_ONCE, end - row))
        counts += np.bincount(data.pool.resolve(numbers).sources, minlength=len(counts))
    found = {name: int(count) for name, count in zip(data.sources, counts, strict=True) if count}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def is_recorded(run: Path, seen: SeenStep) -> bool:
    """Whether metrics.jsonl holds the digest of a step. Raises DataError when it holds another one."""
    recorded, digest = (recorded_step(run, seen.step) or {}).get("batch"), seen.digest()
    if recorded not in (None, digest):
        raise DataError(
            f"{run}: step {seen.step} was trained on rows with digest {recorded}, but they are computed as {digest}; "
            "a corpus, the mixture or the settings are not those of the run"
        )
    return recorded is not None


def original_ids(batch: Batch, label_offset: int) -> NDArray[np.int32]:
    """The ids of a batch before masking, shape [B, T]."""
    ids = batch.input_ids_BT.copy()
    ids.reshape(-1)[batch.label_positions_L - label_offset] = batch.label_ids_L
    return ids


def sightings(data: RunData, document: int, last_step: int, source: str | None = None) -> list[Sighting]:
    """Where the steps 1 to ``last_step`` saw a document, in the order of steps.

    Scans one block of the pack index, then inverts the order: O(epochs x passes). An empty list when the document is
    held out, empty, or has not been reached.
    """
    index = _source_index(data, source)
    if not 0 <= document < data.corpora[index].documents:
        count = data.corpora[index].documents
        raise DataError(f"source {data.sources[index]!r} has no document {document}; it has {count}")
    consumed = sum(data.batch_schedule.rows_at(last_step - 1)) if last_step > 0 else 0
    epochs = -(-(data.order.first_row + consumed) // data.pool_rows)
    found = []
    for row, start, length in data.packs[index].native.document(document):
        for number in data.pool.numbers_of(index, row):
            numbers = number + data.pool_rows * np.arange(epochs, dtype=np.int64)
            positions, passes = data.order.position_of(numbers).tolist(), data.pool.resolve(numbers).passes.tolist()
            for position, pool_row, pass_number in zip(positions, numbers.tolist(), passes, strict=True):
                if 0 <= position < consumed:
                    step = data.batch_schedule.step_of_row(position)
                    found.append(Sighting(
                        step=step + 1, place=position - data.batch_schedule.rows_at(step)[0], number=pool_row,
                        pass_number=pass_number, start=start, length=length,
                    ))  # fmt: skip
    return sorted(found, key=lambda sighting: (sighting.step, sighting.place, sighting.start))


def _source_index(data: RunData, source: str | None) -> int:
    if source is None and len(data.sources) == 1:
        return 0
    if source not in data.sources:
        given = f"there is no source {source!r}" if source else "documents are numbered in each source"
        raise DataError(f"{given}; name one of: {', '.join(data.sources)}")
    return data.sources.index(source)


def is_held_out(data: RunData, document: int, source: str | None = None) -> bool:
    """Whether a document was kept from training."""
    if not data.config.data.held_out_share:
        return False
    return bool(data.held_out_packs[_source_index(data, source)].native.document(document))


def newest_step(run: Path, data: RunData) -> tuple[int, str]:
    """How far a run has come, and what says so: its newest checkpoint, its metrics, or its settings."""
    if checkpoints := list_checkpoints(run):
        return checkpoints[-1].step, "the newest checkpoint"
    if last := last_recorded_step(run):
        return last, METRICS
    rows = -(-data.config.schedule.tokens // data.config.data.row_length)
    return data.batch_schedule.steps_of(rows), "the tokens of the whole stage"


def row_lines(data: RunData, seen: SeenStep, place: int, files: Mapping[str, Places] | None = None) -> Iterator[str]:
    """One line for a row, and one for each piece with the number of tokens that are predicted in it.

    ``files`` holds the places of the documents of each source; with it a line names where its document is from.
    """
    row = seen.rows[place]
    kind = f", {row.objective}" if OBJECTIVES[data.config.objective].mixes else ""
    yield f"row {place}: pool row {row.number}, source {row.source}, its row {row.row}, pass {row.pass_number}{kind}"
    length, positions = seen.batch.row_length, seen.batch.label_positions_L
    bounds = np.array((place * length, (place + 1) * length), positions.dtype)  # another type would copy all labels
    first, last = np.searchsorted(positions, bounds)
    targets = positions[first:last] - place * length - OBJECTIVES[data.config.objective].label_offset
    at = 0
    for document, start, tokens in row.pieces:
        end = at + tokens + SPECIALS_PER_PIECE
        predicted = np.searchsorted(targets, end) - np.searchsorted(targets, at + 1)
        origin = f"; {files[row.source].of(document)}" if files else ""
        yield f"  document {document}, tokens {start} to {start + tokens}: {predicted} predicted{origin}"
        at = end


def text_lines(data: RunData, seen: SeenStep, place: int, files: Mapping[str, Places] | None = None) -> Iterator[str]:
    """The same with the text of each piece as the model reads it, masks and random ids included."""
    tokenizer = Tokenizer.from_file(data.tokenizer_json, engine="huggingface")  # any kind can be decoded
    ids, at = seen.batch.input_ids_BT[place], 0
    lines = row_lines(data, seen, place, files)
    yield next(lines)
    for line, (_, _, length) in zip(lines, seen.rows[place].pieces, strict=True):
        yield line
        end = at + length + SPECIALS_PER_PIECE
        yield "    " + tokenizer.decode(ids[at:end]).replace("\n", "\n    ")
        at = end
