"""csv and tsv files as batches of documents.

Python's own `csv` reads them: it is exact (a quoted field may hold delimiters, line ends and doubled quotes), tells the
line it stands at, and is as fast as pyarrow's reader with one thread, about 110 MB a second. Bytes pass through it
unchanged as Latin-1, in which each byte is a character; who encodes a text judges whether it is UTF-8.
"""

from __future__ import annotations

import csv
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import NamedTuple

from megatron_ettin.errors import DataError
from megatron_ettin.sources.compressed import PIECES, DamagedStreamError, RawFile
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import FIELD_COUNT, DocumentBatch

DELIMITERS = {"csv": ",", "tsv": "\t"}
"""By format. Both quote a field by double quotes, and double a quote within."""
BATCH_BYTES = 2 << 20
LARGEST = 256 << 20
"""Bytes of a text; a record of twice as many is taken for one whose quote is not closed."""
BYTE_ORDER_MARK = "\xef\xbb\xbf"
"""Spreadsheet programs start a UTF-8 csv with it. As Latin-1, like the next."""
UTF_16_MARKS = ("\xff\xfe", "\xfe\xff")


class Record(NamedTuple):
    """One record as it stands in a file."""

    line: int
    """Its first line, from 1."""
    fields: list[str]
    """As Latin-1: each character is a byte."""


def records(source: Source, pieces: Iterable[bytes], largest: int = LARGEST) -> Iterator[Record]:
    """The records of a file from its decompressed bytes, the header first; blank lines are passed over.

    Raises DataError for a quote that is not closed or not doubled, and for a record of more than twice the ``largest``
    text: where the next record starts is not known then.
    """
    csv.field_size_limit(sys.maxsize)  # of the whole process; _Lines has a limit of its own
    lines = _Lines(pieces, 2 * largest)
    found = iter(lines)
    first = next(found, "")
    if first.startswith(UTF_16_MARKS):
        raise DataError(f"{source.path}: is UTF-16; convert it, by `iconv -f UTF-16 -t UTF-8`")
    whole = chain([first.removeprefix(BYTE_ORDER_MARK)], found)
    reader = csv.reader(whole, delimiter=DELIMITERS[source.format], strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield Record(line, fields)
            lines.taken, line = 0, reader.line_num + 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            what = "a quote is opened in the record that starts there and not closed to the end of the file; close it"
        else:
            what = (
                f"a quote within a field of the record that starts there is not doubled ({error}); write fields that "
                'hold quotes as "a ""quoted"" word"'
            )
        raise DataError(f"{source.path}: line {line}: {what}, or fetch the file again") from error
    except _TooLongError as error:
        raise DataError(
            f"{source.path}: line {line}: the record that starts there is above {lines.limit} bytes; close its quote, "
            "or raise --max-document-bytes"
        ) from error


class _TooLongError(Exception):
    """A record without an end."""


class _Lines:
    """The lines of a file from its bytes, cut anywhere, so that no record of more than ``limit`` bytes is held."""

    def __init__(self, pieces: Iterable[bytes], limit: int) -> None:
        self._pieces = pieces
        self.limit = limit
        self.taken = 0
        """Bytes of the record at work; who takes the lines sets it to 0 behind each."""

    def __iter__(self) -> Iterator[str]:
        r"""Each with its end (\n, \r\n or \r), as Latin-1."""
        held: list[bytes] = []
        size = 0
        for piece in self._pieces:
            held.append(piece)
            size += len(piece)
            if self.taken + size > self.limit and b"\n" not in piece and b"\r" not in piece:
                raise _TooLongError
            if b"\n" in piece or b"\r" in piece or (len(held) > 1 and held[-2].endswith(b"\r")):
                lines = b"".join(held).splitlines(keepends=True)
                # a \r at the end may be half of a line end
                held = [] if lines[-1].endswith(b"\n") else [lines.pop()]
                size = sum(map(len, held))
                for line in lines:
                    self.taken += len(line)
                    if self.taken > self.limit:
                        raise _TooLongError
                    yield line.decode("latin-1")
        if size:
            yield b"".join(held).decode("latin-1")


def whole_file(source: Source) -> Iterator[bytes]:
    """The decompressed bytes of a file. Raises DataError where it ends too early or does not decompress."""
    with RawFile(source.path) as raw:
        try:
            yield from PIECES[source.compression](raw)
        except DamagedStreamError as error:
            raise DataError(f"{source.path}: {error}; fetch it again") from error


def delimited_documents(
    source: Source, pieces: Iterable[bytes], keys: Sequence[str], start: int = 0, largest: int = LARGEST
) -> Iterator[DocumentBatch]:
    """The documents of a file from row ``start`` on, from its decompressed bytes; an empty field is an empty text.

    Raises DataError as ``records`` does and for a column that is not there, DamagedStreamError behind the last whole
    record of a damaged file.
    """
    found = records(source, pieces, largest)
    header = next(found, None)
    if header is None:
        return
    columns = _columns(source, header.fields, keys)
    width, row = len(header.fields), 0
    batch = _Batch(start)
    try:
        for record in found:
            if row >= start:
                ragged = len(record.fields) != width
                batch.add([""] * len(columns) if ragged else [record.fields[at] for at in columns], ragged)
                if batch.bytes >= BATCH_BYTES:
                    yield batch.documents()
                    batch = _Batch(row + 1)
            row += 1
    except DamagedStreamError:
        if batch.faults:
            yield batch.documents()
        raise
    if batch.faults:
        yield batch.documents()


def _columns(source: Source, header: Sequence[str], keys: Sequence[str]) -> list[int]:
    """Where the columns ``keys`` stand."""
    try:
        names = [name.encode("latin-1").decode("utf-8") for name in header]
    except UnicodeDecodeError as error:
        raise DataError(f"{source.path}: line 1: the names of the columns are not UTF-8; re-encode the file") from error
    for key in keys:
        if (count := names.count(key)) != 1:
            what = "several columns are named" if count else "no column"
            raise DataError(
                f"{source.path}: {what} {key!r}; columns, from the first line: {', '.join(names)}: name one by "
                "--json-keys"
            )
    return [names.index(key) for key in keys]


class RecordPlaces:
    """The lines at which the records of a file start; read as far as asked for, 8 bytes a record in memory."""

    def __init__(self, source: Source) -> None:
        self._found = records(source, whole_file(source))
        self._lines = array("Q")
        self.width = len(next(self._found, Record(1, [])).fields)
        """Number of columns."""

    def line(self, row: int) -> int | None:
        """Of the record of a row, from 1; None when there is no such row. Raises DataError as ``records`` does."""
        missing = max(0, row + 1 - len(self._lines))
        self._lines.extend(record.line for record in islice(self._found, missing))
        return self._lines[row] if row < len(self._lines) else None


class _Batch:
    """Texts that become one batch of documents."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._texts: list[str] = []
        self.faults = bytearray()
        """Of each row."""
        self.bytes = 0

    def add(self, texts: Sequence[str], ragged: bool) -> None:
        """The next row."""
        self._texts += texts
        self.faults.append(FIELD_COUNT if ragged else 0)
        self.bytes += sum(map(len, texts))

    def documents(self) -> DocumentBatch:
        """What was added."""
        import numpy as np

        ends = np.fromiter(accumulate(map(len, self._texts)), np.uint64, len(self._texts))
        content = "".join(self._texts).encode("latin-1")
        return DocumentBatch(
            first=self._first, content=content, ends=ends, faults=np.frombuffer(self.faults, np.uint8)
        )
