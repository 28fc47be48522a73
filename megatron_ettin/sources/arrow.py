"""Arrow files as batches of documents: IPC files, feather (version 2), and the streams that `datasets` writes.

Files are mapped, so that a record batch of many gigabytes costs the memory of what is read of it at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from megatron_ettin.errors import DataError
from megatron_ettin.sources.columns import check_columns, documents_of
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import DocumentBatch

BATCH_BYTES = 2 << 20
LARGEST_BATCH = 16_384
FILE_MAGIC, FEATHER_1_MAGIC = b"ARROW1", b"FEA1"
FIRST_MESSAGE = 8
"""Where the messages of an IPC file start; those of a stream start at 0."""
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""What a writer puts behind the last message when it is done."""


def arrow_documents(source: Source, keys: Sequence[str], start: int) -> Iterator[DocumentBatch]:
    """The documents of a file, or of a part of it, from row ``start`` of the file.

    Raises DataError for a file that is not whole, and for a column that cannot be read.
    """
    import pyarrow

    try:
        with contextlib.ExitStack() as stack:
            reader = _open(source, stack)
            check_columns(source, reader.schema, keys)
            row, places = 0, batch_starts(source)
            for place, batch in zip(places, _batches(reader), strict=True):
                if row + len(batch) > start and source.begin <= place < source.end:
                    yield from _documents(batch.select(keys), keys, row, max(0, start - row))
                row += len(batch)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _damaged(source, error) from error


def batch_starts(source: Source) -> list[int]:
    """First byte of each record batch of a file; that of the first is 0. Raises DataError for a file that is not whole.

    Both kinds of file are the same messages one after the other; nothing but their headers is read.
    """
    import pyarrow
    from pyarrow import ipc

    starts: list[int] = []
    try:
        with contextlib.ExitStack() as stack:
            stream = _map(source, stack)
            is_file = stream.read(len(FILE_MAGIC)) == FILE_MAGIC
            if not is_file:
                stream.seek(max(0, source.size - len(END_OF_STREAM)))
                if stream.read(len(END_OF_STREAM)) != END_OF_STREAM:
                    raise pyarrow.ArrowInvalid("it has no end mark: who wrote it has not finished")
            at = FIRST_MESSAGE if is_file else 0
            stream.seek(at)
            for message in ipc.MessageReader.open_stream(stream):
                if message.type == "record batch":
                    starts.append(at if starts else 0)
                at = stream.tell()
    except (OSError, pyarrow.ArrowException) as error:
        raise _damaged(source, error) from error
    return starts


def _map(source: Source, stack: contextlib.ExitStack) -> Any:  # noqa: ANN401 - pyarrow
    """The bytes of a file, mapped."""
    import pyarrow

    if os.fsencode(source.path).decode("utf-8", "replace") == str(source.path):
        return stack.enter_context(pyarrow.memory_map(str(source.path)))
    # pyarrow takes no names that are not UTF-8
    return stack.enter_context(pyarrow.PythonFile(stack.enter_context(open(source.path, "rb")), "r"))


def _open(source: Source, stack: contextlib.ExitStack) -> Any:  # noqa: ANN401 - pyarrow
    """The pyarrow reader of a file or a stream, which its first bytes tell apart."""
    from pyarrow import ipc

    stream = _map(source, stack)
    is_file = stream.read(len(FILE_MAGIC)) == FILE_MAGIC
    stream.seek(0)
    return stack.enter_context(ipc.open_file(stream) if is_file else ipc.open_stream(stream))


def _batches(reader: Any) -> Iterator[Any]:  # noqa: ANN401 - pyarrow
    """All record batches, in order."""
    from pyarrow import ipc

    if isinstance(reader, ipc.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _documents(batch: Any, keys: Sequence[str], row: int, skip: int) -> Iterator[DocumentBatch]:  # noqa: ANN401 - pyarrow
    """The rows of a record batch that starts at ``row``, but for the first ``skip``, a few megabytes at a time."""
    import pyarrow

    columns = [_as_bytes(column) for column in batch.columns]
    for column in columns:
        column.validate(full=True)  # offsets outside of their buffer would be followed anywhere
    checked = pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)
    row_bytes = max(1, checked.nbytes // max(1, len(checked)))
    size = int(np.clip(BATCH_BYTES // row_bytes, 1, LARGEST_BATCH))
    for first in range(skip, len(checked), size):
        yield documents_of(checked.slice(first, size), keys, row + first)


def _as_bytes(column: Any) -> Any:  # noqa: ANN401 - pyarrow
    """A column of text as one of its bytes: whether they are UTF-8 is judged row by row by who encodes them."""
    import pyarrow
    from pyarrow import types

    as_bytes = {
        pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary(),
        pyarrow.string_view(): pyarrow.binary_view(),
    }  # fmt: skip
    if types.is_dictionary(column.type):
        words = _as_bytes(column.dictionary)
        return pyarrow.DictionaryArray.from_arrays(column.indices, words, safe=True)
    return column.view(as_bytes[column.type]) if column.type in as_bytes else column


def _damaged(source: Source, error: Exception) -> DataError:
    return DataError(f"{source.path}: not a whole arrow file ({error}); fetch it, or write it, again")
