"""Columns of tables in memory, as pyarrow reads them from parquet and arrow files, become batches of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import NO_VALUE, DocumentBatch

LARGEST_ID = 0xFFFFFFFF


def check_columns(source: Source, schema: Any, keys: Sequence[str]) -> None:  # noqa: ANN401 - pyarrow
    """Raise DataError unless each key names a column of text or, alone, of ids."""
    from pyarrow import types

    for key in keys:
        if schema.names.count(key) > 1:
            raise DataError(f"{source.path}: several columns are named {key!r}; give each a name of its own")
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


def documents_of(batch: Any, keys: Sequence[str], first: int) -> DocumentBatch:  # noqa: ANN401 - pyarrow
    """A column of ids, or the texts of all columns of row 0, then of row 1, and so on."""
    from pyarrow import types

    columns = [batch.column(key) for key in keys]
    columns = [column.dictionary_decode() if types.is_dictionary(column.type) else column for column in columns]
    missing = np.zeros(len(batch), np.bool_)
    for column in columns:
        missing |= np.asarray(column.is_null().to_numpy(zero_copy_only=False), np.bool_)
    faults = missing.view(np.uint8) * np.uint8(NO_VALUE)
    if _is_ids(columns[0].type):
        ids = id_array(columns[0].flatten().to_numpy(zero_copy_only=False))
        lengths = np.where(missing, 0, columns[0].value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        ends = np.cumsum(lengths, dtype=np.uint64)
        return DocumentBatch(first=first, content=ids, ends=ends, faults=faults, ids=True)
    texts = [_text(column) for column in columns]
    if len(texts) == 1:
        return DocumentBatch(first=first, content=texts[0][0], ends=texts[0][1], faults=faults)
    pieces = []
    bounds = [[0, *ends.tolist()] for _, ends in texts]
    for row in range(len(missing)):
        pieces += [content[at[row] : at[row + 1]] for (content, _), at in zip(texts, bounds, strict=True)]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.uint64)
    return DocumentBatch(first=first, content=b"".join(pieces), ends=ends, faults=faults)


def _text(column: Any) -> tuple[memoryview, NDArray[np.uint64]]:  # noqa: ANN401 - pyarrow
    """The bytes of a text column, and the end of each text."""
    import pyarrow

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
