"""Feeding the native builder: each format of input file becomes blocks of records, in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_ettin.errors import DataError
from megatron_ettin.sources.compressed import PIECES, DamagedStreamError, RawFile
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import DocumentBatch, StreamKind

if TYPE_CHECKING:
    from megatron_ettin.sources.read_ahead import ReadAhead

WAIT_MILLISECONDS = 200
"""Longest wait before signals and progress are looked at."""


class StoppedError(Exception):
    """The builder met a failure; its report says which."""


@dataclass
class Feeder:
    """The native builder, seen from the thread that reads."""

    native: Any
    block_bytes: int
    maximum_record: int
    on_wait: Callable[[int], None]
    """Called with the bytes of all inputs fed so far whenever there is time."""
    kinds: tuple[str, ...]
    fed: int = 0

    def wait(self) -> None:
        """Wait for space for another block. Raises StoppedError after a failure."""
        self.on_wait(self.fed)
        while not self.native.wait_for_space(WAIT_MILLISECONDS):
            self.on_wait(self.fed)
        if self.native.failure() is not None:
            raise StoppedError

    def reject(self, number: int, kind: str, offset: int, end: int, reason: str) -> None:
        """Report a record that cannot even be cut out of its file."""
        self.wait()
        self.native.feed_rejected(number, self.kinds.index(kind), offset, end, reason)

    def settle(self) -> None:
        """Wait until everything that was fed is committed, or nothing more can be."""
        while not self.native.wait_until_done(WAIT_MILLISECONDS):
            self.on_wait(self.fed)

    def finish(self) -> None:
        """Wait until everything is committed. Raises StoppedError after a failure."""
        self.settle()
        if self.native.failure() is not None:
            raise StoppedError


def feed_plain_lines(feeder: Feeder, number: int, source: Source, start: int) -> None:
    """A jsonl file, or a part of one: the workers read their own ranges. ``start`` is a byte."""
    try:
        feeder.native.open_file(str(source.path))
    except RuntimeError as error:
        raise DataError(f"{error}; the build can be resumed by the same command") from error
    for begin in range(start, source.end, feeder.block_bytes):
        end = min(begin + feeder.block_bytes, source.end)
        feeder.wait()
        feeder.native.feed_range(number, begin, end)
        feeder.fed += end - begin
    feeder.wait()
    feeder.native.end_source(number, source.end, 0, None)


def _skip(pieces: Iterator[tuple[bytes, int]], count: int) -> Iterator[tuple[bytes, int]]:
    """The pieces without their first ``count`` bytes."""
    for piece, read in pieces:
        if count >= len(piece):
            count -= len(piece)
            continue
        yield piece[count:], read
        count = 0


def feed_stream(feeder: Feeder, number: int, source: Source, start: int, kind: StreamKind, ahead: ReadAhead) -> None:
    """A compressed jsonl file, or text cut at a separator. ``start`` is a byte of the decompressed content."""
    native, position = feeder.native, start
    native.start_stream(number, kind.separator, kind.lines, start)
    damage = None
    before = 0
    try:
        for piece, read in _skip(ahead.pieces(source), start):
            feeder.wait()
            native.feed_stream(piece)
            position += len(piece)
            feeder.fed += read - before
            before = read
    except DamagedStreamError as error:
        damage = str(error)
    feeder.wait()
    native.finish_stream(damage is not None)
    checksum = ahead.checksum
    if damage is not None:
        feeder.reject(number, "truncated", position, position, damage)
        with RawFile(source.path) as raw:
            raw.drain()
            checksum = raw.checksum
    feeder.wait()
    native.end_source(number, position, source.size, checksum)


def feed_whole_text(feeder: Feeder, number: int, source: Source, start: int) -> None:
    """A text file that is one document. ``start`` is the number of documents done: 0 or 1."""
    with RawFile(source.path) as raw:
        content = bytearray()
        damage = None
        try:
            for piece in PIECES[source.compression](raw):
                content += piece
                if len(content) > feeder.maximum_record:
                    damage = ("too_long", f"the document is above {feeder.maximum_record} bytes")
                    break
        except DamagedStreamError as error:
            damage = ("truncated", str(error))
        if damage and start == 0:
            feeder.reject(number, damage[0], 0, 1, damage[1])
        elif start == 0:
            feeder.wait()
            feeder.native.feed_texts(number, content, [len(content)], 0, False, [])
        raw.drain()
        feeder.fed += source.bytes
        feeder.wait()
        feeder.native.end_source(number, max(1, len(content)), raw.position, raw.checksum)


def feed_documents(
    feeder: Feeder, number: int, source: Source, batches: Iterator[DocumentBatch], start: int
) -> None:
    """A file with columns; ``batches`` begins at document ``start``."""
    position = start
    for batch in batches:
        feeder.wait()
        missing: Any = [] if batch.missing is None else batch.missing
        if batch.ids:
            feeder.native.feed_ids(number, batch.content, batch.ends, batch.first, missing)
        else:
            feeder.native.feed_texts(number, batch.content, batch.ends, batch.first, True, missing)
        position = batch.first + batch.documents
    with RawFile(source.path) as raw:
        raw.drain()
        feeder.fed += source.bytes
        feeder.wait()
        feeder.native.end_source(number, position, raw.position, raw.checksum)
