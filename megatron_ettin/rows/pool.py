"""The pool of a stage: every (source, pass, row) that its mixture names, numbered, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.rows.mixture import Mixture
from megatron_ettin.rows.order import FIXED_SEED, Permutation, Stream, permutation_keys
from megatron_ettin.rows.packing import PackIndex

LARGEST_POOL = 2**62


@dataclass(frozen=True, kw_only=True)
class PoolRows:
    """Some rows of a pool, one entry each in three arrays."""

    sources: NDArray[np.int32]
    """Index of the source in the mixture."""
    passes: NDArray[np.uint32]
    """How often the source is read before; counts on over epochs, so that no mask repeats."""
    rows: NDArray[np.int64]
    """Row in the pack index of the source."""

    def part(self, first: int, last: int) -> PoolRows:
        """The rows [first, last)."""
        return PoolRows(sources=self.sources[first:last], passes=self.passes[first:last], rows=self.rows[first:last])


@dataclass(frozen=True, kw_only=True)
class PoolSource:
    """The part of a pool that one source gives: whole passes, then a prefix of a permutation of its rows."""

    name: str
    rows: int
    """Rows of one pass."""
    pool_rows: int
    """Rows in the pool."""
    partial: Permutation
    """Order of the last, partial pass."""

    @property
    def whole_passes(self) -> int:
        """Passes that read every row."""
        return self.pool_rows // self.rows

    @property
    def partial_rows(self) -> int:
        """Rows of the last pass, when it is not whole."""
        return self.pool_rows - self.whole_passes * self.rows

    @property
    def passes_an_epoch(self) -> int:
        """Passes in one epoch of the pool, a partial one included."""
        return self.whole_passes + (self.partial_rows > 0)


class Pool:
    """The concatenation of (source, pass, row) in the order of the mixture; O(number of sources) memory."""

    def __init__(self, sources: list[PoolSource]) -> None:
        self.sources = sources
        self._first = np.concatenate(([0], np.cumsum([source.pool_rows for source in sources], dtype=np.int64)))
        self.rows = int(self._first[-1])
        """Rows of one epoch."""

    def resolve(self, numbers: ArrayLike) -> PoolRows:
        """Source, pass and row of some pool rows; numbers count on over epochs."""
        numbers = np.asarray(numbers, np.int64).reshape(-1)
        epochs, inside = np.divmod(numbers, self.rows)
        owners = np.searchsorted(self._first, inside, side="right").astype(np.int32) - 1
        passes, rows = np.empty(len(inside), np.int64), np.empty(len(inside), np.int64)
        for index in np.unique(owners):
            chosen, source = owners == index, self.sources[index]
            whole, row = np.divmod(inside[chosen] - self._first[index], source.rows)
            partial = whole == source.whole_passes
            row[partial] = source.partial.at(row[partial])
            rows[chosen] = row
            passes[chosen] = whole + epochs[chosen] * source.passes_an_epoch
        return PoolRows(sources=owners.astype(np.int32), passes=passes.astype(np.uint32), rows=rows)

    def numbers_of(self, source_index: int, row: int) -> list[int]:
        """The pool rows of one epoch that hold a row of a source: one for each pass that reads it."""
        source, first = self.sources[source_index], int(self._first[source_index])
        numbers = [first + whole * source.rows + row for whole in range(source.whole_passes)]
        place = int(source.partial.position_of(row)[0])
        if place < source.partial_rows:
            numbers.append(first + source.whole_passes * source.rows + place)
        return numbers


def build_pool(mixture: Mixture, packs: list[PackIndex]) -> Pool:
    """The pool that a mixture describes. Raises DataError naming a source that gives no rows or too many."""
    sources = []
    for index, (source, pack) in enumerate(zip(mixture.sources, packs, strict=True)):
        if pack.rows == 0:
            raise DataError(
                f"source {source.name!r} ({source.prefix}) has no text to train on: every document is empty or held "
                "out; take it out of the mixture, or rebuild its corpus"
            )
        wanted_tokens = mixture.tokens_wanted(source)
        passes = source.amount if wanted_tokens is None else wanted_tokens / pack.tokens
        pool_rows = max(1, round(pack.rows * passes))
        if pool_rows > LARGEST_POOL:
            raise DataError(f"source {source.name!r}: {passes:g} passes make more than 2^62 rows; ask for less")
        partial = Permutation(pack.rows, permutation_keys(FIXED_SEED, Stream.PARTIAL_PASS, index, 0))
        sources.append(PoolSource(name=source.name, rows=pack.rows, pool_rows=pool_rows, partial=partial))
    return Pool(sources)
