"""Rows of a step as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.replay.replay import SeenStep
from megatron_ettin.rows.stage import StageData
from megatron_ettin.tokenizer.tokenizer import Tokenizer


def row_lines(stage: StageData, seen: SeenStep, place: int) -> Iterator[str]:
    """One line for a row, and one for each piece with the number of tokens that are predicted in it."""
    row = seen.rows[place]
    yield f"row {place}: pool row {row.number}, source {row.source}, its row {row.row}, pass {row.pass_number}"
    targets = _target_tokens(stage, seen, place)
    at = 0
    for document, start, length in row.pieces:
        predicted = np.searchsorted(targets, at + length + 2) - np.searchsorted(targets, at + 1)
        yield f"  document {document}, tokens {start} to {start + length}: {predicted} predicted"
        at += length + 2


def text_lines(stage: StageData, seen: SeenStep, place: int) -> Iterator[str]:
    """The same with the text of each piece as the model reads it, masks and random ids included."""
    tokenizer = Tokenizer.from_file(stage.tokenizer_json)
    ids, at = seen.batch.input_ids_BT[place], 0
    lines = row_lines(stage, seen, place)
    yield next(lines)
    for line, (_, _, length) in zip(lines, seen.rows[place].pieces, strict=True):
        yield line
        yield "    " + tokenizer.decode(ids[at : at + length + 2]).replace("\n", "\n    ")
        at += length + 2


def _target_tokens(stage: StageData, seen: SeenStep, place: int) -> NDArray[np.int32]:
    """Places in the row of the tokens that are predicted, ascending. Labels never leave their row."""
    length, positions = seen.batch.row_length, seen.batch.label_positions_L
    bounds = np.array((place * length, (place + 1) * length), positions.dtype)  # another type would copy all labels
    first, last = np.searchsorted(positions, bounds)
    tokens: NDArray[np.int32] = positions[first:last] - place * length
    return tokens - OBJECTIVES[stage.config.objective].label_offset
