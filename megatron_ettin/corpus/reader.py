"""Reading a corpus: memory-mapped, opened in constant time, every access checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.corpus.checksum import file_checksum
from megatron_ettin.corpus.format import HEADER, IndexHeader, corpus_prefix, member, read_header
from megatron_ettin.corpus.manifest import Manifest, read_manifest
from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.identity import TokenizerIdentity, difference, read_identity


def map_numbers(path: Path, dtype: str, count: int) -> NDArray[Any]:
    """The first ``count`` numbers of a file, memory-mapped; a file without any cannot be."""
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The memory-mapped arrays of one corpus; ``lengths``, ``pointers`` and ``document_indices`` are unaligned."""

    tokens: NDArray[np.uint16] | NDArray[np.int32]
    """The whole .bin file as ids."""
    lengths: NDArray[np.int32]
    """Tokens of each sequence, shape [sequences]."""
    pointers: NDArray[np.int64]
    """Byte offset of each sequence in the .bin file, shape [sequences]."""
    document_indices: NDArray[np.int64]
    """First sequence of each document, then the number of sequences, shape [documents + 1]."""


def map_files(prefix: Path, header: IndexHeader) -> Layout:
    """Map both files of a corpus whose header was checked. O(1).

    Raises DataError where the first or last entries show that index and tokens do not belong together.
    """
    paths = member(prefix, ".idx"), member(prefix, ".bin")
    index, content = (map_numbers(path, "u1", path.stat().st_size) for path in paths)
    itemsize = np.dtype(header.dtype).itemsize
    if len(content) % itemsize:
        raise DataError(f"{member(prefix, '.bin')}: {len(content)} bytes is not a whole number of {header.dtype} ids")
    layout = Layout(
        tokens=content.view(header.dtype),
        lengths=index[HEADER.size : header.pointers_offset].view("<i4"),
        pointers=index[header.pointers_offset : header.documents_offset].view("<i8"),
        document_indices=index[header.documents_offset :].view("<i8"),
    )
    path = member(prefix, ".idx")
    if layout.document_indices[0] != 0 or layout.document_indices[-1] != header.sequences:
        raise DataError(f"{path}: the document indices do not run from 0 to {header.sequences}; rebuild the corpus")
    end = int(layout.pointers[-1]) + int(layout.lengths[-1]) * itemsize if header.sequences else 0
    if end != len(content) or (header.sequences and layout.pointers[0] != 0):
        raise DataError(
            f"{path}: the sequences end at byte {end}, but {member(prefix, '.bin').name} has {len(content)} bytes; "
            "the files do not belong together or one is cut: rebuild the corpus"
        )
    return layout


class Corpus:
    """Tokenized documents on disk: ``PREFIX.bin``, ``PREFIX.idx`` and the manifest ``PREFIX.json``.

    A document is one sequence, except that an empty document has none and a corpus split into sentences has several.
    """

    def __init__(self, prefix: Path, manifest: Manifest, layout: Layout) -> None:
        self.prefix = prefix
        self.manifest = manifest
        self.layout = layout
        self.documents = len(layout.document_indices) - 1
        """Number of documents, empty ones included."""
        self.sequences = len(layout.lengths)
        """Number of sequences."""
        self.tokens = len(layout.tokens)
        """Number of stored ids, appended eod included."""
        self.eod = manifest.appended_eod
        """The id that ends every document that is not empty, or None when none was appended."""
        self.fingerprint = manifest.fingerprint
        """Changes whenever the content changes."""
        self.tokenizer_json = member(prefix, ".tokenizer.json")
        """The copy of the tokenizer.json beside the corpus."""

    @cached_property
    def tokenizer(self) -> TokenizerIdentity:
        """The tokenizer that made the ids; its fingerprint is taken from the copy of its file beside the corpus."""
        found, copy = self.manifest.tokenizer, self.tokenizer_json
        if not found.fingerprint and copy.is_file():
            recorded = self.manifest.files.get(".tokenizer.json")
            if recorded is not None and file_checksum(copy.read_bytes()) == recorded:
                return replace(found, fingerprint=read_identity(copy).fingerprint)
        return found

    def tokenizer_difference(self, other: Corpus) -> str | None:
        """What makes the tokenizers of two corpora two, as ``difference`` does; files are read where hashes differ."""
        found = difference(self.manifest.tokenizer, other.manifest.tokenizer)
        return difference(self.tokenizer, other.tokenizer) if found is None else found

    def __len__(self) -> int:
        return self.documents

    def _bounds(self, start: int, stop: int) -> NDArray[np.int64]:
        """First sequence of the documents [start, stop) and of the one after, checked."""
        if not 0 <= start <= stop <= self.documents:
            raise IndexError(f"{self.prefix}: no documents [{start}, {stop}); there are {self.documents}")
        bounds = self.layout.document_indices[start : stop + 1].astype(np.int64)
        if bounds[0] < 0 or bounds[-1] > self.sequences or (np.diff(bounds) < 0).any():
            raise DataError(f"{self.prefix}.idx: document indices {start} to {stop} are not ascending; run verify")
        return bounds

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Stored ids of each document in [start, stop), appended eod included. O(stop - start)."""
        bounds = self._bounds(start, stop)
        pieces = self.layout.lengths[bounds[0] : bounds[-1]]
        if len(pieces) and pieces.min() < 0:
            raise DataError(f"{self.prefix}.idx: a negative length in documents {start} to {stop}; run verify")
        ends = np.concatenate(([0], np.cumsum(pieces, dtype=np.int64)))
        lengths = np.diff(ends[bounds - bounds[0]])
        if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
            raise DataError(f"{self.prefix}.idx: a document above 2^31 - 1 tokens in {start} to {stop}; run verify")
        return np.asarray(lengths, np.int32)

    def document(self, number: int) -> NDArray[np.uint16] | NDArray[np.int32]:
        """The ids of one document as a view of the file, appended eod included. O(sequences of the document)."""
        first, last = (int(bound) for bound in self._bounds(number, number + 1))
        if first == last:
            return self.layout.tokens[:0]
        itemsize = self.layout.tokens.itemsize
        lengths = self.layout.lengths[first:last].astype(np.int64)
        pointers = self.layout.pointers[first:last].astype(np.int64)
        begin, end = int(pointers[0]), int(pointers[-1]) + int(lengths[-1]) * itemsize
        whole = begin >= 0 and begin % itemsize == 0 and end <= self.layout.tokens.nbytes and lengths.min() >= 0
        if not whole or (pointers[1:] != pointers[:-1] + lengths[:-1] * itemsize).any():
            raise DataError(f"{self.prefix}.idx: document {number} has offsets outside the corpus; run verify")
        return self.layout.tokens[begin // itemsize : end // itemsize]


def open_corpus(path: str | Path) -> Corpus:
    """Open a corpus by its prefix, checking manifest, header and sizes. O(1), whatever the size.

    Raises DataError when a file is missing, cut, or does not belong to the others. What only a full read can find
    (a flipped bit) is found by ``ettin corpus verify``.
    """
    prefix = corpus_prefix(path)
    manifest = read_manifest(member(prefix, ".json"))
    for suffix in (".bin", ".idx"):
        file, told = member(prefix, suffix), manifest.files[suffix].bytes
        if not file.is_file():
            raise DataError(f"{file}: no such file, though the manifest is there; rebuild the corpus")
        if (size := file.stat().st_size) != told:
            raise DataError(f"{file}: {size} bytes, the manifest says {told}; the file is cut: rebuild the corpus")
    header = read_header(member(prefix, ".idx"))
    layout = map_files(prefix, header)
    found = (header.dtype, header.documents, header.sequences, len(layout.tokens))
    recorded = (manifest.dtype, manifest.documents, manifest.sequences, manifest.tokens)
    if found != recorded:
        raise DataError(
            f"{prefix}: the files hold (dtype, documents, sequences, tokens) {found}, the manifest says {recorded}; "
            "rebuild the corpus"
        )
    return Corpus(prefix, manifest, layout)
