"""Every random decision of the data side as a function of seed, purpose and number; and the order of a stage.

Each purpose has a keyed stream of Philox-4x32-10. The order is a keyed permutation computed on demand, with its
inverse. O(1) memory at any size.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_ettin import _native

RowNumbers = NDArray[np.int64]
"""RowNumbers by their number in a pool, in an order or in a pack index."""

Key = tuple[int, int]
"""A Philox key: two 32-bit words."""

FIXED_SEED = 0x657474696E
"""Key of what must not depend on a run's seed: the held-out split and its masks, the partial passes of a mixture."""


class Stream(enum.IntEnum):
    """The purposes; the last word of the counter, so that no two streams share a number."""

    ORDER = 1
    PARTIAL_PASS = 2
    CHOICE = 3
    REPLACEMENT = 4
    HELD_OUT_SPLIT = 5
    HELD_OUT_ORDER = 6
    HELD_OUT_CHOICE = 7
    HELD_OUT_REPLACEMENT = 8
    KIND = 9


def philox_words(seed: int, stream: Stream, first: int, second: int, third: int = 0) -> tuple[int, int, int, int]:
    """Four 32-bit words that belong to a seed, a purpose and up to three numbers below 2^32."""
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    a, b, c, d = _native.philox([first, second, third, int(stream)], [low, high])
    return a, b, c, d


def stream_key(seed: int, stream: Stream, stage: int, source: int) -> Key:
    """The key of the draws of one source in one stage."""
    first, second, _, _ = philox_words(seed, stream, stage, source)
    return first, second


def permutation_keys(seed: int, stream: Stream, first: int, second: int) -> list[int]:
    """The eight round keys of a permutation."""
    return [*philox_words(seed, stream, first, second, 0), *philox_words(seed, stream, first, second, 1)]


class Permutation:
    """A keyed permutation of [0, size); ``at`` and ``position_of`` are inverse. About 30 ns a row, no table."""

    def __init__(self, size: int, keys: list[int]) -> None:
        self.size = size
        self._native = _native.Permutation(size, keys)

    def at(self, positions: ArrayLike) -> RowNumbers:
        """The values at some positions. Raises IndexError outside [0, size)."""
        values: RowNumbers = self._native.at(np.asarray(positions, np.int64).reshape(-1))
        return values

    def position_of(self, values: ArrayLike) -> RowNumbers:
        """The positions of some values. Raises IndexError outside [0, size)."""
        positions: RowNumbers = self._native.position_of(np.asarray(values, np.int64).reshape(-1))
        return positions


class StageOrder:
    """The n-th row that a stage consumes, and when it consumes a row.

    Rows are numbered on over epochs: pool row ``r`` in epoch ``e`` is ``e * pool_rows + r``. Each epoch has a
    permutation of its own. A stage that goes on in the order of another begins with its row ``first_row``.
    """

    def __init__(self, pool_rows: int, seed: int, stage: int, first_row: int = 0) -> None:
        self.pool_rows, self.seed, self.stage, self.first_row = pool_rows, seed, stage, first_row
        self._epochs: dict[int, Permutation] = {}

    def at(self, first: int, count: int) -> RowNumbers:
        """The rows consumed as number ``first`` to ``first + count - 1`` of this stage."""
        consumed = np.arange(first, first + count, dtype=np.int64) + self.first_row
        return self._by_epoch(consumed, Permutation.at)

    def position_of(self, rows: ArrayLike) -> RowNumbers:
        """When each row is consumed: the inverse of ``at``. Below 0: by the stage whose order this one carries on."""
        return self._by_epoch(np.asarray(rows, np.int64).reshape(-1), Permutation.position_of) - self.first_row

    def _by_epoch(self, numbers: RowNumbers, apply: Callable[[Permutation, RowNumbers], RowNumbers]) -> RowNumbers:
        result = np.empty_like(numbers)
        epochs = numbers // self.pool_rows
        for epoch in np.unique(epochs).tolist():
            if epoch not in self._epochs:
                keys = permutation_keys(self.seed, Stream.ORDER, self.stage, epoch)
                self._epochs[epoch] = Permutation(self.pool_rows, keys)
            chosen, base = epochs == epoch, epoch * self.pool_rows
            result[chosen] = base + apply(self._epochs[epoch], numbers[chosen] - base)
        return result
