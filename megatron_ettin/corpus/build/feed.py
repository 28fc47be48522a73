"""Feeding the native builder: each format of input file becomes blocks of records, in input order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from megatron_ettin import _native
from megatron_ettin.errors import DataError
from megatron_ettin.sources.compressed import PIECES, DamagedStreamError, RawFile
from megatron_ettin.sources.cuts import lines_of_part
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import DocumentBatch, StreamKind

if TYPE_CHECKING:
    from megatron_ettin.sources.read_ahead import ReadAhead

TEXT_BATCH_BYTES = 2 << 20
"""Texts of a program that are handed on together."""
WAIT_MILLISECONDS = 200
"""Longest wait before signals and progress are looked at."""


class StoppedError(Exception):
    """The builder met a failure; ``native.failure()`` says which."""


@dataclass
class Feeder:
    """The native builder, seen from the thread that reads."""

    native: Any
    block_bytes: int
    maximum_record: int
    on_wait: Callable[[int], None]
    """Called with the bytes of all inputs fed so far whenever there is time."""
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
        self.native.feed_rejected(number, _native.REJECT_KINDS.index(kind), offset, end, reason)

    def settle(self) -> None:
        """Wait until everything that was fed is committed, or nothing more can be."""
        while not self.native.wait_until_done(WAIT_MILLISECONDS):
            self.on_wait(self.fed)

    def end_source(self, number: int, position: int, size: int, checksum: int | None) -> None:
        """A source is done at ``position``; its size in bytes and crc32c, unless the builder reads the file itself."""
        self.wait()
        self.native.end_source(number, position, size, checksum)


def feed_plain_lines(feeder: Feeder, number: int, source: Source, first_byte: int) -> None:
    """A jsonl file, or a part of one, from a byte on: the workers read their own ranges."""
    try:
        feeder.native.open_file(os.fsencode(source.path))
    except RuntimeError as error:
        raise DataError(f"{error}; the build can be resumed by the same command") from error
    for begin in range(first_byte, source.end, feeder.block_bytes):
        end = min(begin + feeder.block_bytes, source.end)
        feeder.wait()
        feeder.native.feed_range(number, begin, end)
        feeder.fed += end - begin
    feeder.end_source(number, source.end, 0, None)


def feed_stream(
    feeder: Feeder, number: int, source: Source, first_byte: int, kind: StreamKind, ahead: ReadAhead
) -> None:
    """A compressed jsonl file or a part of one, or text cut at a separator, from a byte of its content on."""
    native, position, left_out, read_before = feeder.native, first_byte, first_byte, source.begin
    native.start_stream(number, kind.separator, kind.lines, first_byte)
    damage = None
    try:
        pieces = ahead.pieces(source)
        for piece, read in lines_of_part(pieces, source) if source.bytes < source.size else pieces:
            if left_out >= len(piece):
                left_out -= len(piece)
                continue
            piece, left_out = piece[left_out:], 0
            feeder.wait()
            native.feed_stream(piece)
            position += len(piece)
            feeder.fed += read - read_before
            read_before = read
    except DamagedStreamError as error:
        damage = str(error)
    feeder.wait()
    native.finish_stream(damage is not None)
    checksum = ahead.checksum
    if damage is not None:
        feeder.reject(number, "truncated", position, position, damage)
        with RawFile(source.path, source.begin, source.end) as raw:
            raw.drain()
            checksum = raw.checksum
    feeder.end_source(number, position, source.bytes, checksum)


def feed_whole_text(feeder: Feeder, number: int, source: Source, *, done: bool) -> None:
    """A text file that is one document, which is fed unless it is ``done``."""
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
        if damage and not done:
            feeder.reject(number, damage[0], 0, 1, damage[1])
        elif not done:
            feeder.wait()
            feeder.native.feed_texts(number, content, [len(content)], 0, False, [])
        raw.drain()
        feeder.fed += source.bytes
        feeder.end_source(number, max(1, len(content)), raw.position, raw.checksum)


def feed_delimited(
    feeder: Feeder, number: int, source: Source, first_row: int, keys: Sequence[str], ahead: ReadAhead
) -> None:
    """A csv or tsv file, compressed or not, from a row on."""
    from megatron_ettin.sources.delimited import delimited_documents

    position, damage, before = first_row, None, feeder.fed

    def pieces() -> Iterator[bytes]:
        for piece, read in ahead.pieces(source):
            feeder.fed = before + read
            yield piece

    try:
        for batch in delimited_documents(source, pieces(), keys, first_row, feeder.maximum_record):
            feeder.wait()
            _feed_batch(feeder, number, batch)
            position = batch.first + batch.documents
    except DamagedStreamError as error:
        damage = str(error)
    checksum = ahead.checksum
    if damage is not None:
        feeder.reject(number, "truncated", position, position, damage)
        with RawFile(source.path) as raw:
            raw.drain()
            checksum = raw.checksum
    feeder.end_source(number, position, source.bytes, checksum)


def feed_texts(feeder: Feeder, number: int, texts: Iterable[str]) -> None:
    """Texts as a program gives them, as rows from 0 on. Their size and checksum are those of the texts as UTF-8."""
    position = size = checksum = 0
    held: list[bytes] = []

    def feed_held() -> None:
        nonlocal position, size, checksum
        content, ends = b"".join(held), list(accumulate(map(len, held)))
        feeder.wait()
        feeder.native.feed_texts(number, content, ends, position, True, [])
        position, checksum = position + len(held), _native.crc32c(content, checksum)
        size += len(content)
        feeder.fed = size
        held.clear()

    waiting = 0
    for text in texts:
        held.append(text.encode("utf-8", "surrogatepass"))  # a lone surrogate is judged by who encodes it
        waiting += len(held[-1])
        if waiting >= TEXT_BATCH_BYTES:
            feed_held()
            waiting = 0
    if held:
        feed_held()
    feeder.end_source(number, position, size, checksum)


def _feed_batch(feeder: Feeder, number: int, batch: DocumentBatch) -> None:
    """Rows of a table."""
    faults: Any = [] if batch.faults is None else batch.faults
    if batch.ids:
        feeder.native.feed_ids(number, batch.content, batch.ends, batch.first, faults)
    else:
        feeder.native.feed_texts(number, batch.content, batch.ends, batch.first, True, faults)


def feed_documents(
    feeder: Feeder, number: int, source: Source, first_document: int, batches: Iterator[DocumentBatch]
) -> None:
    """A file with columns, or a part of one; ``batches`` begins at a document."""
    position = first_document
    for batch in batches:
        feeder.wait()
        _feed_batch(feeder, number, batch)
        position = batch.first + batch.documents
    with RawFile(source.path, source.begin, source.end) as raw:
        raw.drain()
        feeder.fed += source.bytes
        feeder.end_source(number, position, raw.position - source.begin, raw.checksum)
