"""Which documents training never sees: a keyed hash of their text ids, so that duplicates fall on one side."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin import _native
from megatron_ettin.corpus.format import hash_path
from megatron_ettin.corpus.pair import Pair, map_numbers
from megatron_ettin.corpus.reader import Corpus
from megatron_ettin.errors import DataError
from megatron_ettin.ownership import owned
from megatron_ettin.progress import Progress
from megatron_ettin.publish import publish_file
from megatron_ettin.rows.order import FIXED_SEED, Stream, stream_key

CHUNK_DOCUMENTS = 1 << 18


def split_key() -> int:
    """The key of the split: a constant, so that every stage of every run holds out the same documents."""
    first, second = stream_key(FIXED_SEED, Stream.HELD_OUT_SPLIT, 0, 0)
    return first << 32 | second


class TextHashes:
    """One hash a document, memory-mapped, in a file for each .bin/.idx pair of a corpus."""

    def __init__(self, parts: Sequence[NDArray[np.uint32]]) -> None:
        self._parts = parts
        self._firsts = tuple(accumulate((len(part) for part in parts), initial=0))

    def __getitem__(self, documents: slice) -> NDArray[np.uint32]:
        """The hashes of documents that follow each other."""
        first, last, _ = documents.indices(self._firsts[-1])
        found = [
            part[max(first - begin, 0) : last - begin]
            for part, begin, end in zip(self._parts, self._firsts[:-1], self._firsts[1:], strict=True)
            if begin < last and first < end
        ]
        return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, np.uint32), *found])


def text_hashes(corpus: Corpus, native: _native.IndexedCorpus, threads: int, folder: str = "") -> TextHashes:
    """The hashes of all documents. `ettin prepare` writes them; for other corpora the .bin is read once.

    ``folder`` is where they are kept then; by default beside the .bin.
    """
    return TextHashes([
        _hashes_of(pair, first, native, threads, folder)
        for pair, first in zip(corpus.pairs, corpus.firsts, strict=False)
    ])  # fmt: skip


def _hashes_of(
    pair: Pair, first: int, native: _native.IndexedCorpus, threads: int, folder: str
) -> NDArray[np.uint32]:
    """The hashes of one pair, whose first document has the number ``first`` in its corpus."""
    path = hash_path(pair.prefix, pair.fingerprint)
    if folder and not path.is_file():
        path = hash_path(Path(folder, pair.prefix.name), pair.fingerprint)
    if not path.is_file():
        with only_one_builds(path):
            if not path.is_file():
                _write_hashes(path, pair, first, native, threads)
    if path.stat().st_size != 4 * pair.documents:
        raise DataError(f"{path}: {path.stat().st_size} bytes, expected 4 a document; delete it, it is made again")
    return map_numbers(path, "<u4", pair.documents)


def _write_hashes(path: Path, pair: Pair, first: int, native: _native.IndexedCorpus, threads: int) -> None:
    with (
        publish_file(path) as staging,
        staging.open("wb") as out,
        Progress(f"hash {pair.prefix.name}", pair.documents, " docs") as progress,
    ):
        for done in range(0, pair.documents, CHUNK_DOCUMENTS):
            count = min(CHUNK_DOCUMENTS, pair.documents - done)
            out.write(memoryview(_native.text_hashes(native, first + done, count, threads)))
            progress.update(done + count)


@contextlib.contextmanager
def only_one_builds(path: Path) -> Iterator[None]:
    """One process at a time makes ``path``; the others wait for it, and go on by themselves when it is gone.

    What builds that were killed have left is removed. Raises DataError when the folder cannot be written.
    """
    say = functools.partial(print, file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with owned(path.parent, path.name, "ettin pack", wait=True, remove=True, say=say):
            for leftover in path.parent.glob(f".{glob.escape(path.name)}.incomplete-*"):
                leftover.unlink(missing_ok=True)
            yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise DataError(
            f"{path}: cannot be written, and what is computed once for a corpus is kept there; name a folder of your "
            "own by --data.index-folder FOLDER (`ettin pack --index-folder`), or run `ettin pack` as a user who may "
            f"write to {path.parent}"
        ) from error
