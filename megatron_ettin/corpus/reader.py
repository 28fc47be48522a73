"""Reading a corpus: opened without a look at its documents, memory-mapped, every access checked."""

from __future__ import annotations

from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.corpus.checksum import file_checksum
from megatron_ettin.corpus.format import DTYPES, corpus_prefix, member
from megatron_ettin.corpus.manifest import JoinedPart, Manifest, read_fingerprint, read_manifest
from megatron_ettin.corpus.pair import Pair, open_pair
from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.identity import TokenizerIdentity, difference, read_identity

MAPPED_PAIRS = 64
"""Pairs of a joined corpus that stay mapped; each holds two open files."""
OPENING_THREADS = 16
"""Parts of a joined corpus that are opened side by side: over a network each waits for its server."""


class Corpus:
    """Tokenized documents on disk: ``PREFIX.bin``, ``PREFIX.idx`` and the manifest ``PREFIX.json``.

    A document is one sequence, except that an empty document has none and a corpus split into sentences has several.
    A joined corpus has a manifest alone: its documents are those of its parts, which are read where they lie.
    """

    def __init__(self, prefix: Path, manifest: Manifest, pairs: tuple[Pair, ...]) -> None:
        self.prefix = prefix
        self.manifest = manifest
        self.pairs = pairs
        """Where the documents lie, in order: one pair, or those of the parts of a joined corpus."""
        self.documents = manifest.documents
        """Number of documents, empty ones included."""
        self.sequences = manifest.sequences
        """Number of sequences."""
        self.tokens = manifest.tokens
        """Number of stored ids, appended eod included."""
        self.eod = manifest.appended_eod
        """The id that ends every document that is not empty, or None when none was appended."""
        self.fingerprint = manifest.fingerprint
        """Changes whenever the content changes; a joined corpus has that of the merged one."""
        self.tokenizer_json = member(prefix, ".tokenizer.json")
        """The copy of the tokenizer.json beside the corpus."""
        self.firsts = tuple(accumulate((pair.documents for pair in pairs), initial=0))
        """First document of each pair, then the number of documents."""
        self._mapped = lru_cache(MAPPED_PAIRS)(Pair.map)

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

    def _require(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.documents:
            raise IndexError(f"{self.prefix}: no documents [{start}, {stop}); there are {self.documents}")

    def place(self, number: int) -> tuple[Pair, int]:
        """The pair that holds a document, and the number that it has there. Raises IndexError."""
        self._require(number, number + 1)
        at = bisect_right(self.firsts, number) - 1
        return self.pairs[at], number - self.firsts[at]

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Stored ids of each document in [start, stop), appended eod included. O(stop - start)."""
        self._require(start, stop)
        found = [np.zeros(0, np.int32)]
        while start < stop:
            pair, first = self.place(start)
            last = min(pair.documents, first + stop - start)
            found.append(self._mapped(pair).document_lengths(first, last))
            start += last - first
        return np.concatenate(found)

    def document(self, number: int) -> NDArray[np.uint16] | NDArray[np.int32]:
        """The ids of one document as a view of the file, appended eod included. O(sequences of the document)."""
        pair, there = self.place(number)
        return self._mapped(pair).document(there)


def open_corpus(path: str | Path) -> Corpus:
    """Open a corpus by its prefix, checking manifest, headers and sizes. Costs the same whatever the size of the files.

    Raises DataError when a file is missing, cut, or does not belong to the others, and for a part of a joined corpus
    that is another one than was joined. What only a full read can find (a flipped bit) is found by ``ettin corpus
    verify``.
    """
    prefix = corpus_prefix(path)
    manifest = read_manifest(member(prefix, ".json"))
    if not manifest.parts:
        pairs = [open_pair(prefix, manifest.fingerprint, manifest.files[".bin"].bytes)]
        if (size := pairs[0].header.file_bytes) != (told := manifest.files[".idx"].bytes):
            file = member(prefix, ".idx")
            raise DataError(f"{file}: {size} bytes, the manifest says {told}; the file is cut: rebuild the corpus")
    else:
        with ThreadPoolExecutor(OPENING_THREADS) as pool:
            pairs = list(pool.map(lambda part: _open_part(prefix, manifest, part), manifest.parts))
    counts = [(pair.documents, pair.header.sequences, pair.tokens) for pair in pairs]
    found = (pairs[0].header.dtype, *(sum(column) for column in zip(*counts, strict=True)))
    recorded = (manifest.dtype, manifest.documents, manifest.sequences, manifest.tokens)
    if found != recorded:
        raise DataError(
            f"{prefix}: the files hold (dtype, documents, sequences, tokens) {found}, the manifest says {recorded}; "
            "rebuild the corpus"
        )
    return Corpus(prefix, manifest, tuple(pairs))


def _open_part(joined: Path, manifest: Manifest, part: JoinedPart) -> Pair:
    """The pair of a part of a joined corpus. Raises DataError, naming both, when it is not what was joined."""
    prefix, known = Path(joined.parent, part.prefix), f"a part of {member(joined, '.json')}"
    if not (file := member(prefix, ".json")).is_file():
        raise DataError(f"{file}: no such file, but {known}; bring it back, or join what there is under another name")
    if (found := read_fingerprint(file)) != part.fingerprint:
        raise DataError(
            f"{prefix}: {known}, but built anew since it was joined (fingerprint {found[:12]}, then "
            f"{part.fingerprint[:12]}); remove {member(joined, '.json')} and join again"
        )
    try:
        pair = open_pair(prefix, part.fingerprint, part.tokens * DTYPES[manifest.dtype])
    except DataError as error:
        raise DataError(f"{error} ({known})") from error
    found_counts = (pair.header.dtype, pair.documents, pair.header.sequences)
    if found_counts != (wanted := (manifest.dtype, part.documents, part.sequences)):
        raise DataError(
            f"{prefix}: holds (dtype, documents, sequences) {found_counts}, but {wanted} were joined; it is {known}: "
            "restore its files"
        )
    return pair
