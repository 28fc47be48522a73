"""Which documents training never sees: a keyed hash of their text ids, so that duplicates fall on one side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin import _native
from megatron_ettin.corpus.format import hash_path
from megatron_ettin.corpus.reader import Corpus
from megatron_ettin.errors import DataError
from megatron_ettin.progress import Progress
from megatron_ettin.publish import publish_file
from megatron_ettin.rows.order import FIXED_SEED, Stream, stream_key

CHUNK_DOCUMENTS = 1 << 18


def split_key() -> int:
    """The key of the split: a constant, so that every stage of every run holds out the same documents."""
    first, second = stream_key(FIXED_SEED, Stream.HELD_OUT_SPLIT, 0, 0)
    return first << 32 | second


def text_hashes(corpus: Corpus, native: _native.IndexedCorpus, threads: int) -> NDArray[np.uint32]:
    """One hash a document, memory-mapped. `ettin prepare` writes them; for other corpora the .bin is read once."""
    path = hash_path(corpus.prefix, corpus.fingerprint)
    if not path.is_file():
        try:
            with (
                publish_file(path) as staging,
                staging.open("wb") as out,
                Progress(f"hash {corpus.prefix.name}", corpus.documents, " docs") as progress,
            ):
                for first in range(0, corpus.documents, CHUNK_DOCUMENTS):
                    count = min(CHUNK_DOCUMENTS, corpus.documents - first)
                    out.write(memoryview(_native.text_hashes(native, first, count, threads)))
                    progress.update(first + count)
        except PermissionError as error:
            raise unwritable(path) from error
    if path.stat().st_size != 4 * corpus.documents:
        raise DataError(f"{path}: {path.stat().st_size} bytes, expected 4 a document; delete it, it is made again")
    if corpus.documents == 0:
        return np.empty(0, np.uint32)
    return np.memmap(path, dtype="<u4", mode="r")


def unwritable(path: Path) -> DataError:
    """The error for a corpus in a folder that cannot be written to."""
    return DataError(
        f"{path}: cannot be written, and what is computed once for a corpus is kept beside it; run `ettin pack` as a "
        f"user who may write to {os.fspath(path.parent)}, or link the corpus files into a folder of your own"
    )
