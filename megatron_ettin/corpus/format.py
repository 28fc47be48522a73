"""The files of a corpus: their names, and Megatron-Core's MMIDIDX layout of the .idx, written in pieces."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from megatron_ettin import _native
from megatron_ettin.errors import DataError

SUFFIXES = (".bin", ".idx", ".json")
"""What makes a corpus; other files beside it can be made again."""
MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, number of sequences, number of document indices (documents + 1)."""
DTYPES = {"uint16": 2, "int32": 4}
"""Name and size in bytes of the types that ids are stored in."""
DTYPE_CODES = {"uint16": 8, "int32": 4}
CODE_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"
}  # fmt: skip
UINT16_LIMIT = 65_500
"""Megatron-Core stores ids as uint16 when the vocabulary is below this, else as int32."""
SEQUENCES_AT_ONCE = 1 << 20
"""8 MiB of pointers."""


def corpus_prefix(path: str | Path) -> Path:
    """The prefix of a corpus, from the prefix itself or one of its three files."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in SUFFIXES else path


def member(prefix: Path, suffix: str) -> Path:
    """The file of a corpus with this suffix; a dot in the prefix stays."""
    return prefix.with_name(prefix.name + suffix)


def hash_path(prefix: Path, fingerprint: str) -> Path:
    """Where the text hashes of a corpus lie: 4 bytes a document, in a file named after its content."""
    return member(prefix, f".{fingerprint[:16]}.hash")


def remove_hashes(prefix: Path) -> None:
    """Delete the text hashes of what was under this prefix before."""
    pattern = re.compile(re.escape(prefix.name) + r"\.[0-9a-f]{16}\.hash")
    for name in os.listdir(prefix.parent):
        if pattern.fullmatch(name):
            (prefix.parent / name).unlink(missing_ok=True)


def dtype_for(vocabulary: int) -> str:
    """Name of the type that ids of a vocabulary are stored in."""
    return "uint16" if vocabulary < UINT16_LIMIT else "int32"


class IndexHeader(NamedTuple):
    """The 34 bytes that start an .idx file."""

    dtype: str
    sequences: int
    documents: int

    @property
    def file_bytes(self) -> int:
        """Size that the whole .idx file must have."""
        return HEADER.size + 12 * self.sequences + 8 * (self.documents + 1)

    @property
    def pointers_offset(self) -> int:
        """Where the int64 byte offsets of the sequences start, behind the header and the int32 sequence lengths."""
        return HEADER.size + 4 * self.sequences

    @property
    def documents_offset(self) -> int:
        """Where the int64 document indices start; there is one more than documents."""
        return self.pointers_offset + 8 * self.sequences

    def encode(self) -> bytes:
        """The header as it is stored."""
        return HEADER.pack(MAGIC, 1, DTYPE_CODES[self.dtype], self.sequences, self.documents + 1)


def read_header(path: Path) -> IndexHeader:
    """Read the header of an .idx file and check it against the size of the file. O(1). Raises DataError."""
    try:
        with open(path, "rb") as stream:
            content, file_bytes = stream.read(HEADER.size), os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: reading {HEADER.size} bytes at offset 0 failed: {error.strerror}") from error
    if len(content) < HEADER.size:
        raise DataError(f"{path}: {file_bytes} bytes is too short for an index; rebuild the corpus")
    magic, version, code, sequences, document_indices = HEADER.unpack(content)
    if magic != MAGIC or version != 1:
        raise DataError(f"{path}: not an index of version 1 (magic {magic!r}, version {version})")
    if CODE_DTYPES.get(code) not in DTYPE_CODES:
        found = CODE_DTYPES.get(code, f"unknown code {code}")
        raise DataError(f"{path}: token type {found}; a corpus holds uint16 or int32 ids")
    if document_indices < 1:
        raise DataError(f"{path}: no document index, at least one is always there; rebuild the corpus")
    header = IndexHeader(dtype=CODE_DTYPES[code], sequences=sequences, documents=document_indices - 1)
    if header.file_bytes != file_bytes:
        raise DataError(
            f"{path}: {file_bytes} bytes, but {sequences} sequences and {header.documents} documents "
            f"need {header.file_bytes}; the file is cut or damaged: rebuild the corpus"
        )
    return header


def file_pieces(path: Path, itemsize: int, count: int) -> Iterator[bytes]:
    """The first ``count`` numbers of a file of raw numbers, in pieces of bounded size. Raises DataError."""
    with open(path, "rb", buffering=0) as stream:
        for first in range(0, count, SEQUENCES_AT_ONCE):
            wanted = min(SEQUENCES_AT_ONCE, count - first)
            content = stream.read(wanted * itemsize)
            if len(content) != wanted * itemsize:
                raise DataError(f"{path}: ends after {stream.tell()} bytes, expected {count * itemsize}")
            yield content


def write_index(write: Callable[[bytes], object], header: IndexHeader, lengths: Path, document_ends: Path) -> None:
    """Write an .idx from staged raw files: int32 sequence lengths, int64 ends of documents. Bounded memory."""
    write(header.encode())
    for piece in file_pieces(lengths, 4, header.sequences):
        write(piece)
    end = 0
    for piece in file_pieces(lengths, 4, header.sequences):
        pointers, end = _native.sequence_pointers(piece, DTYPES[header.dtype], end)
        write(pointers)
    write(struct.pack("<q", 0))
    for piece in file_pieces(document_ends, 8, header.documents):
        write(piece)
