"""One .bin/.idx pair: opened without a look at its documents, memory-mapped, every access checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.corpus.format import DTYPES, HEADER, IndexHeader, member, read_header
from megatron_ettin.errors import DataError


def map_numbers(path: Path, dtype: str, count: int) -> NDArray[Any]:
    """The first ``count`` numbers of a file, memory-mapped; a file without any cannot be."""
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair whose header and sizes were checked. No file stays open."""

    prefix: Path
    fingerprint: str
    """Of the corpus that the pair was built as."""
    header: IndexHeader
    token_bytes: int
    """Size of the .bin file."""

    @property
    def documents(self) -> int:
        """Number of documents, empty ones included."""
        return self.header.documents

    @property
    def tokens(self) -> int:
        """Number of stored ids, appended eod included."""
        return self.token_bytes // DTYPES[self.header.dtype]

    def map(self) -> Layout:
        """Map both files; they stay open as long as the arrays are in use."""
        index = map_numbers(member(self.prefix, ".idx"), "u1", self.header.file_bytes)
        return Layout(
            prefix=self.prefix,
            tokens=map_numbers(member(self.prefix, ".bin"), "u1", self.token_bytes).view(self.header.dtype),
            lengths=index[HEADER.size : self.header.pointers_offset].view("<i4"),
            pointers=index[self.header.pointers_offset : self.header.documents_offset].view("<i8"),
            document_indices=index[self.header.documents_offset :].view("<i8"),
        )


def open_pair(prefix: Path, fingerprint: str, token_bytes: int) -> Pair:
    """Open a pair whose .bin should have so many bytes. O(1).

    Raises DataError when a file is missing, cut or unsound, or when the first or last entries show that index and
    tokens do not belong together.
    """
    tokens, index = member(prefix, ".bin"), member(prefix, ".idx")
    for file in (tokens, index):
        if not file.is_file():
            raise DataError(f"{file}: no such file, though the manifest is there; rebuild the corpus")
    if (size := tokens.stat().st_size) != token_bytes:
        raise DataError(f"{tokens}: {size} bytes, the manifest says {token_bytes}; the file is cut: rebuild the corpus")
    header = read_header(index)
    if token_bytes % DTYPES[header.dtype]:
        raise DataError(f"{tokens}: {token_bytes} bytes is not a whole number of {header.dtype} ids")
    _require_ends(index, header, token_bytes)
    return Pair(prefix=prefix, fingerprint=fingerprint, header=header, token_bytes=token_bytes)


def _require_ends(index: Path, header: IndexHeader, token_bytes: int) -> None:
    """The first and last entries of an index must fit the number of sequences and the size of the .bin file."""
    places = [(header.documents_offset, 8), (header.file_bytes - 8, 8)]
    if header.sequences:
        places += [(header.pointers_offset, 8), (header.documents_offset - 8, 8), (header.pointers_offset - 4, 4)]
    with open(index, "rb", buffering=0) as stream:
        found = [int.from_bytes(os.pread(stream.fileno(), size, at), "little", signed=True) for at, size in places]
    if found[:2] != [0, header.sequences]:
        raise DataError(f"{index}: the document indices do not run from 0 to {header.sequences}; rebuild the corpus")
    first, last, length = found[2:] or (0, 0, 0)
    end = last + length * DTYPES[header.dtype]
    if end != token_bytes or first != 0:
        raise DataError(
            f"{index}: the sequences end at byte {end}, but {index.stem}.bin has {token_bytes} bytes; "
            "the files do not belong together or one is cut: rebuild the corpus"
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The memory-mapped arrays of one pair; ``lengths``, ``pointers`` and ``document_indices`` are unaligned."""

    prefix: Path
    tokens: NDArray[np.uint16] | NDArray[np.int32]
    """The whole .bin file as ids."""
    lengths: NDArray[np.int32]
    """Tokens of each sequence, shape [sequences]."""
    pointers: NDArray[np.int64]
    """Byte offset of each sequence in the .bin file, shape [sequences]."""
    document_indices: NDArray[np.int64]
    """First sequence of each document, then the number of sequences, shape [documents + 1]."""

    def _bounds(self, start: int, stop: int) -> NDArray[np.int64]:
        """First sequence of the documents [start, stop) and of the one after, checked."""
        bounds = self.document_indices[start : stop + 1].astype(np.int64)
        if bounds[0] < 0 or bounds[-1] > len(self.lengths) or (np.diff(bounds) < 0).any():
            raise DataError(f"{self.prefix}.idx: document indices {start} to {stop} are not ascending; run verify")
        return bounds

    def document_lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Stored ids of each document in [start, stop), which are there. O(stop - start)."""
        bounds = self._bounds(start, stop)
        pieces = self.lengths[bounds[0] : bounds[-1]]
        if len(pieces) and pieces.min() < 0:
            raise DataError(f"{self.prefix}.idx: a negative length in documents {start} to {stop}; run verify")
        ends = np.concatenate(([0], np.cumsum(pieces, dtype=np.int64)))
        lengths = np.diff(ends[bounds - bounds[0]])
        if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
            raise DataError(f"{self.prefix}.idx: a document above 2^31 - 1 tokens in {start} to {stop}; run verify")
        return np.asarray(lengths, np.int32)

    def document(self, number: int) -> NDArray[np.uint16] | NDArray[np.int32]:
        """The ids of one document, which is there, as a view of the file. O(sequences of the document)."""
        first, last = (int(bound) for bound in self._bounds(number, number + 1))
        if first == last:
            return self.tokens[:0]
        itemsize = self.tokens.itemsize
        lengths = self.lengths[first:last].astype(np.int64)
        pointers = self.pointers[first:last].astype(np.int64)
        begin, end = int(pointers[0]), int(pointers[-1]) + int(lengths[-1]) * itemsize
        whole = begin >= 0 and begin % itemsize == 0 and end <= self.tokens.nbytes and lengths.min() >= 0
        if not whole or (pointers[1:] != pointers[:-1] + lengths[:-1] * itemsize).any():
            raise DataError(f"{self.prefix}.idx: document {number} has offsets outside the corpus; run verify")
        return self.tokens[begin // itemsize : end // itemsize]
