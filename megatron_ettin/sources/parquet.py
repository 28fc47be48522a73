"""Parquet files as batches of documents, a few megabytes at a time."""

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
from megatron_ettin.sources.remote.address import RemoteFile
from megatron_ettin.sources.remote.store import read_footer

BATCH_BYTES = 2 << 20
LARGEST_BATCH = 16_384


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
            check_columns(source, file.schema_arrow, keys)
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
                            yield documents_of(batch.slice(skip), keys, first + skip)
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
