"""Where an input file may be cut, so that its parts become shards that are built on different machines.

Every machine finds the same places by itself, from the bytes of the file alone. A plain file of lines is cut anywhere,
a compressed one where a gzip member or a zstd frame starts, a parquet or arrow file where a row group or record batch
starts. Any other file is taken whole, and so is one of a single member, frame, group or batch, and one of members,
frames or batches that lies elsewhere: to find them it would have to be fetched. A csv file is, too: whether a line
break within it ends a record depends on every quote before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from megatron_ettin.sources.compressed import PIECES, DamagedStreamError, RawFile
from megatron_ettin.sources.members import next_frame, next_gzip_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from megatron_ettin.sources.files import Source

PROOF_BYTES = 1 << 20
"""Decompressed bytes after which a place that looks like the start of a gzip member is taken for one."""


def shard_of(sources: Sequence[Source], index: int, count: int) -> list[Source]:
    """The part ``index`` of ``count`` parts of all bytes, as equal as cuts allow. The parts in order are the whole.

    A line belongs to the part that holds its first byte, but in a compressed file to the one that holds the line break
    before it.
    """
    total = sum(source.size for source in sources)
    first, last = (_cut_of_all(sources, total * bound // count) for bound in (index, index + 1))
    chosen, start = [], 0
    for source in sources:
        begin, end = max(first - start, 0), min(last - start, source.size)
        empty = not source.size and (first <= start < last or (index == count - 1 and start == total))
        if begin < end or empty:
            chosen.append(replace(source, begin=begin, end=end))
        start += source.size
    return chosen


def _cut_of_all(sources: Sequence[Source], offset: int) -> int:
    """The first cut at or after a byte of all files, one after the other."""
    start = 0
    for source in sources:
        if offset < start + source.size:
            return start + (_cut(source, offset - start) if offset > start else 0)
        start += source.size
    return start


def _cut(source: Source, offset: int) -> int:
    """The first place after byte 0 and not before ``offset`` where a file may be cut; its size when there is none."""
    if source.splits:
        return offset
    if source.format == "parquet":
        from megatron_ettin.sources.parquet import group_starts

        return next((start for start in group_starts(source) if start >= offset), source.size)
    if source.remote is not None:
        return source.size
    if source.format == "arrow":
        from megatron_ettin.sources.arrow import batch_starts

        return next((start for start in batch_starts(source) if start >= offset), source.size)
    if source.format == "jsonl":
        with RawFile(source.path) as raw:
            if source.compression == "zst":
                return next_frame(raw.descriptor, offset, source.size)
            at = next_gzip_header(raw.descriptor, offset, source.size)
            while at < source.size and not _decompresses(source, at):
                at = next_gzip_header(raw.descriptor, at + 1, source.size)
            return at
    return source.size


def _decompresses(source: Source, at: int) -> bool:
    """Whether the bytes from a place on decompress, as those of compressed data do not."""
    seen = 0
    try:
        with RawFile(source.path, at) as raw:
            for piece in PIECES[source.compression](raw):
                seen += len(piece)
                if seen >= PROOF_BYTES:
                    break
    except DamagedStreamError:
        return seen > 0  # damaged further on, which who reads it will tell
    return True


def without_first_line(pieces: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Pieces of a part of a file, each with a number that is passed on, without what belongs to the part before."""
    found = False
    for piece, read in pieces:
        if found:
            yield piece, read
        elif (end := piece.find(b"\n")) >= 0:
            found = True
            yield piece[end + 1 :], read


def lines_of_part(pieces: Iterable[tuple[bytes, int]], source: Source) -> Iterator[tuple[bytes, int]]:
    """The lines of a part of a compressed file, from its decompressed pieces: those that follow its line breaks.

    The first part has the first line too. The end of the last line is read from the part behind.
    """
    some = False
    for piece, read in without_first_line(pieces) if source.begin else pieces:
        some = True
        yield piece, read
    if source.end < source.size and (some or not source.begin):
        with RawFile(source.path, source.end) as raw:
            for piece in PIECES[source.compression](raw):
                line, found, _ = piece.partition(b"\n")
                yield line + found, source.bytes
                if found:
                    return
