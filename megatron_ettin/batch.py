"""What the data side makes and training consumes: packed rows in index form."""

# B rows, T tokens of a row, L labels, S segments

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_MODULUS = 1 << 64


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some packed rows, with masks applied and labels as positions into the flattened rows.

    A segment is what attention may see: one piece ([CLS] + text + end), or padding. A decoder's [PAD] end position
    and a row's tail are segments of their own, without labels.
    """

    input_ids_BT: NDArray[np.int32]
    """Token ids after corruption, shape [B, T]."""
    positions_BT: NDArray[np.int32]
    """Position of each token in its segment, from 0, shape [B, T]."""
    cu_seqlens_S: NDArray[np.int32]
    """Bounds of the segments in the flattened B*T stream, shape [S + 1]; first 0, last B*T; every row starts one."""
    label_positions_L: NDArray[np.int32]
    """Flattened index of the position whose hidden state predicts, ascending, shape [L]."""
    label_ids_L: NDArray[np.int32]
    """The token id to predict there, shape [L]."""
    rows_B: NDArray[np.int64]
    """Row number in the stage's pool, shape [B]; negative for padding, which is no row of it."""
    sources_B: NDArray[np.int32]
    """Index of each row's source in the mixture, shape [B]."""
    tokens: int
    """Tokens seen: [CLS], text and end positions; the tail of a row is not counted."""
    first_row: int = 0
    """Place of the first row among the rows of its step, all data ranks together; the others follow it."""
    causal_B: NDArray[np.bool_] | None = None
    """Whether a row is one of next tokens, in which attention looks to the left only, shape [B]. Its labels stand at
    the first positions of a segment, side by side. None: the run has rows of one kind, its objective's."""

    @property
    def rows(self) -> int:
        """Number of rows B."""
        return int(self.input_ids_BT.shape[0])

    @property
    def row_length(self) -> int:
        """Tokens of a row, T."""
        return int(self.input_ids_BT.shape[1])

    @property
    def labels(self) -> int:
        """Number of labels L: the positions that the loss is summed over."""
        return int(self.label_ids_L.shape[0])

    @property
    def empty(self) -> bool:
        """Nothing but padding: no row of the step, no labels."""
        return self.tokens == 0

    @property
    def causal_S(self) -> NDArray[np.bool_] | None:
        """The same for each segment, shape [S]."""
        return None if self.causal_B is None else self.causal_B[self.cu_seqlens_S[:-1] // self.row_length]

    def digest(self) -> int:
        """Sum of a 64-bit hash of each row, modulo 2**64: ids, positions and labels of its tokens, and its number.

        Digests of batches add up: the sum over a step does not depend on how its rows are split.
        """
        bounds = np.searchsorted(self.label_positions_L, np.arange(self.rows + 1) * self.row_length)
        total = 0
        for row, (first, last) in enumerate(pairwise(bounds)):
            parts = (
                self.rows_B[row : row + 1].astype("<i8"),
                self.input_ids_BT[row].astype("<i4"),
                self.positions_BT[row].astype("<i4"),
                (self.label_positions_L[first:last] - row * self.row_length).astype("<i4"),
                self.label_ids_L[first:last].astype("<i4"),
            )
            hashed = hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=8)
            total += int.from_bytes(hashed.digest(), "little")
        return total % DIGEST_MODULUS


def empty_batch(rows: int, row_length: int, pad_id: int) -> Batch:
    """Padding for a data rank without rows of a step: no labels, no tokens seen; each row is one segment."""
    return Batch(
        input_ids_BT=np.full((rows, row_length), pad_id, np.int32),
        positions_BT=np.tile(np.arange(row_length, dtype=np.int32), (rows, 1)),
        cu_seqlens_S=np.arange(rows + 1, dtype=np.int32) * row_length,
        label_positions_L=np.zeros(0, np.int32),
        label_ids_L=np.zeros(0, np.int32),
        rows_B=np.full(rows, -1, np.int64),
        sources_B=np.zeros(rows, np.int32),
        tokens=0,
    )


def packed_pieces(pieces: Sequence[NDArray[np.integer[Any]]], asked: Sequence[NDArray[np.integer[Any]]] = ()) -> Batch:
    """Pieces of ids in one row without padding, a segment for each; labels of id 0 at positions ``asked`` of each."""
    starts = np.cumsum([0, *map(len, pieces)])
    labels = [positions + start for positions, start in zip(asked, starts, strict=False)]
    label_positions = np.concatenate([np.zeros(0, np.int32), *labels]).astype(np.int32)
    return Batch(
        input_ids_BT=np.concatenate(pieces).astype(np.int32)[None],
        positions_BT=np.concatenate([np.arange(len(piece), dtype=np.int32) for piece in pieces])[None],
        cu_seqlens_S=starts.astype(np.int32),
        label_positions_L=label_positions,
        label_ids_L=np.zeros(len(label_positions), np.int32),
        rows_B=np.zeros(1, np.int64),
        sources_B=np.zeros(1, np.int32),
        tokens=int(starts[-1]),
    )
