"""Parquet files as batches of documents, a few megabytes at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import DocumentBatch
from megatron_ettin.sources.remote.address import RemoteFile
from megatron_ettin.sources.remote.store import read_footer

BATCH_BYTES = 2 << 20
LARGEST_BATCH = 16_384
LARGEST_ID = 0xFFFFFFFF


def parquet_documents(source: Source, keys: Sequence[str], start: int) -> Iterator[DocumentBatch]:
    """The documents of a file, or of a part of it, from document ``start`` of the file.

    Raises DataError for a file or column that cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with contextlib.ExitStack() as stack:
            # pyarrow takes no names that are not UTF-8
            named = os.fsencode(source.path).decode("utf-8", "replace") == str(source.path)
            given = source.path if named else stack.enter_context(open(source.path, "rb"))
            file = stack.enter_context(parquet.ParquetFile(given, pre_buffer=False))
            _check_columns(source, file.schema_arrow, keys)
            row, places = 0, _group_starts(file.metadata)
            for group in range(file.num_row_groups):
                meta = file.metadata.row_group(group)
                if row + meta.num_rows > start and source.begin <= places[group] < source.end:
                    row_bytes = max(1, meta.total_byte_size // max(1, meta.num_rows))
                    size = int(np.clip(BATCH_BYTES // row_bytes, 1, LARGEST_BATCH))
                    first = row
                    for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=list(keys)):
                        skip = min(max(0, start - first), len(batch))
                        if skip < len(batch):
                            yield _documents(batch.slice(skip), keys, first + skip)
                        first += len(batch)
                row += meta.num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source.path}: not a readable parquet file ({error}); fetch it again") from error


def group_starts(source: Source) -> list[int]:
    """First byte of each row group of a file; that of the first is 0. Raises DataError for one that cannot be read."""
    import pyarrow
    from pyarrow import parquet

    if source.remote is not None:
        return _group_starts(_remote_metadata(source.remote))
    try:
        with open(source.path, "rb") as stream:
            return _group_starts(parquet.read_metadata(stream))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source.path}: not a readable parquet file ({error}); fetch it again") from error


def needed_ranges(source: Source) -> list[tuple[int, int]] | None:
    """The bytes of a file elsewhere that its part needs, ascending: its row groups and the footer.

    None where the columns of its row groups do not lie between these bounds: then all are needed. Raises DataError.
    """
    assert source.remote is not None
    metadata = _remote_metadata(source.remote)
    for number, start in enumerate(_group_starts(metadata)):
        group = metadata.row_group(number)
        for column in (group.column(i) for i in range(group.num_columns)):
            offsets = [at for at in (column.dictionary_page_offset, column.data_page_offset) if at]
            first, inside = min(offsets), source.begin <= start < source.end
            if inside and not source.begin <= first <= first + column.total_compressed_size <= source.end:
                return None
    footer = len(read_footer(source.remote))
    return [(source.begin, source.end), (max(source.end, source.size - footer), source.size)]


def _remote_metadata(remote: RemoteFile) -> Any:  # noqa: ANN401 - pyarrow
    """What the footer of a file elsewhere says. Raises DataError."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_metadata(pyarrow.BufferReader(read_footer(remote)))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{remote.name}: not a readable parquet file ({error}); fetch it again") from error


def _group_starts(metadata: Any) -> list[int]:  # noqa: ANN401 - pyarrow
    starts = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        offsets = [at for c in columns for at in (c.dictionary_page_offset, c.data_page_offset) if at]
        starts.append(min(offsets) if number else 0)
    return starts


def _check_columns(source: Source, schema: Any, keys: Sequence[str]) -> None:  # noqa: ANN401 - pyarrow
    from pyarrow import types

    for key in keys:
        if key not in schema.names:
            raise DataError(
                f"{source.path}: no column {key!r}; columns: {', '.join(schema.names)}: name one by --json-keys"
            )
        kind = schema.field(key).type
        plain = kind.value_type if types.is_dictionary(kind) else kind
        is_text = types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)
        if not (is_text or _is_bytes(plain) or _is_ids(kind)):
            raise DataError(
                f"{source.path}: column {key!r} holds {kind}; text, its bytes in UTF-8, or lists of ids are read: name "
                "another column by --json-keys, or write this one as text"
            )
        if _is_ids(kind) and len(keys) > 1:
            raise DataError(f"{source.path}: column {key!r} holds ids; build such columns one at a time")


def _is_bytes(kind: Any) -> bool:  # noqa: ANN401 - pyarrow
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_ids(kind: Any) -> bool:  # noqa: ANN401 - pyarrow
    from pyarrow import types

    return bool((types.is_list(kind) or types.is_large_list(kind)) and types.is_integer(kind.value_type))


def _documents(batch: Any, keys: Sequence[str], first: int) -> DocumentBatch:  # noqa: ANN401 - pyarrow
    """A column of ids, or the texts of all columns of row 0, then of row 1, and so on."""
    columns = [batch.column(key) for key in keys]
    missing = np.zeros(len(batch), np.bool_)
    for column in columns:
        missing |= np.asarray(column.is_null().to_numpy(zero_copy_only=False), np.bool_)
    if _is_ids(columns[0].type):
        ids = id_array(columns[0].flatten().to_numpy(zero_copy_only=False))
        lengths = np.where(missing, 0, columns[0].value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        ends = np.cumsum(lengths, dtype=np.uint64)
        return DocumentBatch(first=first, content=ids, ends=ends, missing=missing, ids=True)
    texts = [_text(column) for column in columns]
    if len(texts) == 1:
        return DocumentBatch(first=first, content=texts[0][0], ends=texts[0][1], missing=missing)
    pieces = []
    bounds = [[0, *ends.tolist()] for _, ends in texts]
    for row in range(len(missing)):
        pieces += [content[at[row] : at[row + 1]] for (content, _), at in zip(texts, bounds, strict=True)]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.uint64)
    return DocumentBatch(first=first, content=b"".join(pieces), ends=ends, missing=missing)


def _text(column: Any) -> tuple[memoryview, NDArray[np.uint64]]:  # noqa: ANN401 - pyarrow
    """The bytes of a text column, and the end of each text."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # bytes need not be UTF-8: who encodes them judges each row
    array = column.cast(pyarrow.large_binary() if _is_bytes(column.type) else pyarrow.large_string())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    content = memoryview(data if data is not None else b"")[bounds[0] : bounds[-1]]
    return content, (bounds[1:] - bounds[0]).astype(np.uint64)


def id_array(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Ids as uint32; those outside its range become the largest, which no vocabulary holds."""
    ids = values.astype(np.int64)
    return np.where((ids < 0) | (ids > LARGEST_ID), LARGEST_ID, ids).astype(np.uint32)
