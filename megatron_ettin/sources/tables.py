"""Files with columns whose rows are read from a row on: which function reads which format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_ettin.sources.files import Source
    from megatron_ettin.sources.records import DocumentBatch

TABLES = ("parquet", "arrow", "mds")
PACKED_INSIDE = ("parquet", "arrow")
"""Formats that compress their columns: a file of them is not compressed as a whole."""


def table_documents(source: Source, keys: Sequence[str], start: int) -> Iterator[DocumentBatch]:
    """The documents of a file of TABLES, or of a part of it, from row ``start`` of the file. Raises DataError."""
    return _reader(source.format)(source, keys, start)


def _reader(format: str) -> Callable[[Source, Sequence[str], int], Iterator[DocumentBatch]]:
    # imported late: pyarrow and numpy take longer than a build of lines needs to start
    if format == "parquet":
        from megatron_ettin.sources.parquet import parquet_documents

        return parquet_documents
    if format == "arrow":
        from megatron_ettin.sources.arrow import arrow_documents

        return arrow_documents
    from megatron_ettin.sources.mds import mds_documents

    return mds_documents
