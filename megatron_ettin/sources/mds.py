"""MDS shards (MosaicML Streaming), text or tokenized: the form in which published Ettin data lies on the hub.

A shard is: the number of samples n (uint32), n + 1 offsets into the file (uint32), a JSON description of the columns,
the samples. A sample is: the sizes of its columns of variable size (uint32 each), then its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.sources.columns import id_array
from megatron_ettin.sources.compressed import PIECES, DamagedStreamError, RawFile
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import DocumentBatch
from megatron_ettin.typed_json import parse_json

BATCH_BYTES = 2 << 20
MAXIMUM_SHARD_BYTES = 2**32 - 1
"""Offsets are 32 bits wide."""
VALUE_TYPES = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 32: "uint32", 33: "int32", 64: "uint64", 65: "int64",
}  # fmt: skip
SHAPE_TYPES = ("uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Shard:
    """A whole shard in memory, its offsets checked."""

    where: str
    content: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    names: list[str]
    encodings: list[str]
    sizes: list[int | None]
    """Bytes of each column, None where they vary."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.offsets) - 1

    def column(self, name: str) -> int:
        """Place of a column. Raises DataError when it is not there."""
        if name not in self.names:
            raise DataError(f"{self.where}: no column {name!r}; columns: {', '.join(self.names)}: use --json-keys")
        return self.names.index(name)

    def bounds(self, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First byte and size of a column in every sample. Raises DataError when one is outside its sample."""
        begins = self.offsets[:-1]
        variable = [size is None for size in self.sizes]
        header = 4 * sum(variable)
        if (np.diff(self.offsets) < header).any():
            raise DataError(f"{self.where}: a sample is too short for its {len(self.sizes)} columns; fetch it again")
        gathered = self.content[begins[:, None] + np.arange(header)].view("<u4").astype(np.int64)
        every = np.empty((self.samples, len(self.sizes)), np.int64)
        every[:, variable] = gathered
        for i, size in enumerate(self.sizes):
            if size is not None:
                every[:, i] = size
        if (every.sum(axis=1) + header != np.diff(self.offsets)).any():
            raise DataError(f"{self.where}: a sample's columns do not add up to its size; fetch the shard again")
        return begins + header + every[:, :column].sum(axis=1), every[:, column]


def parse_shard(content: NDArray[np.uint8], where: str) -> Shard:
    """Check the frame of a shard. Raises DataError for anything that is not one."""
    broken = DataError(f"{where}: not a whole MDS shard; fetch it again")
    if len(content) < 8 or len(content) > MAXIMUM_SHARD_BYTES:
        raise broken
    samples = int(content[:4].view("<u4")[0])
    table = 4 + 4 * (samples + 1)
    if table > len(content):
        raise broken
    offsets = content[4:table].view("<u4").astype(np.int64)
    if offsets[0] < table or offsets[-1] != len(content) or (np.diff(offsets) < 0).any():
        raise broken
    try:
        columns = parse_json(content[table : offsets[0]].tobytes())
        names, encodings, sizes = (columns[f"column_{part}"] for part in ("names", "encodings", "sizes"))
        _check_columns(names, encodings, sizes)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: no description of the columns in the shard ({error!r}); fetch it again") from error
    return Shard(where, content, offsets, names, encodings, sizes)


def _check_columns(names: object, encodings: object, sizes: object) -> None:
    if not (isinstance(names, list) and isinstance(encodings, list) and isinstance(sizes, list)):
        raise TypeError("column lists")
    if not len(names) == len(encodings) == len(sizes) or not names:
        raise ValueError("column lists of different lengths")
    for name, encoding, size in zip(names, encodings, sizes, strict=True):
        if not (isinstance(name, str) and isinstance(encoding, str)):
            raise TypeError("column names")
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 2**32):
            raise ValueError("column sizes")


def mds_documents(source: Source, keys: Sequence[str], start: int) -> Iterator[DocumentBatch]:
    """The documents of a shard from sample ``start``: texts (str) or ids (ndarray). Raises DataError.

    The shard is held in memory whole, decompressed where needed.
    """
    content = bytearray()
    with RawFile(source.path) as raw:
        try:
            for piece in PIECES[source.compression](raw):
                content += piece
                if len(content) > MAXIMUM_SHARD_BYTES:
                    raise DataError(f"{source.path}: above 4 GiB, which is no MDS shard")
        except DamagedStreamError as error:
            raise DataError(f"{source.path}: {error}; fetch it again") from error
    return shard_documents(parse_shard(np.frombuffer(content, np.uint8), str(source.path)), keys, start)


def shard_documents(shard: Shard, keys: Sequence[str], start: int) -> Iterator[DocumentBatch]:
    """The documents of a shard in memory from sample ``start``. Raises DataError."""
    columns = [shard.column(key) for key in keys]
    encodings = [shard.encodings[column] for column in columns]
    kinds = {encoding.partition(":")[0] for encoding in encodings}
    if kinds == {"str"}:
        bounds = [shard.bounds(column) for column in columns]
        view: memoryview = shard.content.data
        for first, stop in _batches(sum(sizes for _, sizes in bounds), start):  # type: ignore[arg-type]
            texts = [
                view[int(begins[row]) : int(begins[row] + sizes[row])]
                for row in range(first, stop)
                for begins, sizes in bounds
            ]
            ends = np.cumsum([len(text) for text in texts], dtype=np.uint64)
            yield DocumentBatch(first=first, content=b"".join(texts), ends=ends)
    elif kinds == {"ndarray"} and len(columns) == 1:
        begins, sizes = shard.bounds(columns[0])
        for first, stop in _batches(sizes, start):
            arrays = [
                _decode_array(shard, encodings[0], int(begins[row]), int(begins[row] + sizes[row]))
                for row in range(first, stop)
            ]
            ends = np.cumsum([len(array) for array in arrays], dtype=np.uint64)
            yield DocumentBatch(first=first, content=np.concatenate(arrays), ends=ends, ids=True)
    else:
        found = ", ".join(encodings)
        raise DataError(f"{shard.where}: columns hold {found}; text (str), or one column of ids (ndarray) is read")


def _batches(sizes: NDArray[np.int64], start: int) -> Iterator[tuple[int, int]]:
    """Ranges of samples of about BATCH_BYTES each."""
    ends = np.cumsum(sizes)
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield start, stop
        start = stop


def _decode_array(shard: Shard, encoding: str, begin: int, end: int) -> NDArray[np.uint32]:
    """One ndarray value as ids: a type byte unless the encoding names the type, a shape unless it names the shape."""
    parts = encoding.split(":")[1:]
    broken = DataError(f"{shard.where}: the {encoding} value at byte {begin} is damaged; fetch the shard again")
    name = parts[0] if parts else VALUE_TYPES.get(int(shard.content[begin]) if begin < end else 0, "")
    begin += 0 if parts else 1
    if name not in VALUE_TYPES.values():
        raise DataError(f"{shard.where}: the {encoding} value at byte {begin} holds no whole numbers")
    if len(parts) < 2:
        if begin >= end:
            raise broken
        dimensions, shape_type = divmod(int(shard.content[begin]), 4)
        begin += 1 + dimensions * np.dtype(SHAPE_TYPES[shape_type]).itemsize
    if begin > end or (end - begin) % np.dtype(name).itemsize:
        raise broken
    return id_array(shard.content[begin:end].view(name))
