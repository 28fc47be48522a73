"""The pack index of a corpus: which pieces make up each row. Built once, block by block, and kept beside the corpus."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from megatron_ettin import _native
from megatron_ettin.config.run import SPECIALS_PER_PIECE, DataConfig
from megatron_ettin.corpus.format import member
from megatron_ettin.corpus.reader import Corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.machine import allow_open_files
from megatron_ettin.progress import Progress
from megatron_ettin.publish import publish_file
from megatron_ettin.rows.held_out import only_one_builds, split_key, text_hashes

Side = Literal["train", "held_out"]

MAGIC = b"ETTNPACK"
VERSION = 1
HEADER = struct.Struct("<8s6I8Q64sI")
HEADER_BYTES = 256
BLOCKS_PER_WAVE = 4
"""Blocks packed per thread between two writes: bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """What a pack index is made for."""

    row_length: int
    piece_length: int
    packing: Literal["best_fit", "concatenate"]
    held_out_share: float
    side: Side
    folder: str = ""
    """Where it is kept; by default beside the corpus."""

    def __post_init__(self) -> None:
        shortest, longest = SPECIALS_PER_PIECE + 1, _native.LONGEST_TEXT + SPECIALS_PER_PIECE
        if not shortest <= self.piece_length <= min(self.row_length, longest):
            raise ConfigError(
                f"data.piece_length={self.piece_length} must be at least {shortest} ([CLS], a token and the end), and "
                f"at most {longest} and data.row_length={self.row_length}"
            )
        if not 0 <= self.held_out_share < 1:
            raise ConfigError(f"data.held_out_share={self.held_out_share} must be at least 0 and below 1")

    @property
    def below(self) -> int:
        """Documents with a keyed hash below this are held out; a larger share holds out a superset."""
        return round(self.held_out_share * 2**32)

    def path(self, corpus: Corpus) -> Path:
        """Where the pack index is built: in a folder of many corpora its name tells the content of its corpus."""
        lengths, prefix = f"{self.row_length}-{self.piece_length}", corpus.prefix
        if self.folder:
            prefix = Path(self.folder, f"{prefix.name}.{corpus.fingerprint[:16]}")
        return member(prefix, f".rows-{lengths}-{self.packing}-{self.side}-{self.below:08x}.pack")


def pack_spec(data: DataConfig, side: Side = "train") -> PackSpec:
    """The pack index that a run needs."""
    return PackSpec(
        row_length=data.row_length,
        piece_length=data.piece_length,
        packing=data.packing,
        held_out_share=data.held_out_share,
        side=side,
        folder=data.index_folder,
    )


@dataclass(frozen=True, kw_only=True)
class PackIndex:
    """An open pack index."""

    spec: PackSpec
    path: Path
    native: _native.PackFile
    """Rows to pieces and back: ``row(n)``, ``document(d)``, ``row_tokens(rows)``."""
    corpus: _native.IndexedCorpus
    """The corpus that it belongs to."""
    rows: int
    pieces: int
    """Number of pieces in all rows."""
    text_tokens: int
    """Text tokens in all rows, without [CLS] and end positions."""

    @property
    def tokens(self) -> int:
        """Tokens seen in one pass: [CLS], text and end positions."""
        return self.text_tokens + SPECIALS_PER_PIECE * self.pieces

    @property
    def fill(self) -> float:
        """Share of the positions that hold a piece."""
        return self.tokens / (self.rows * self.spec.row_length) if self.rows else 1.0


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What the first 256 bytes of a pack index say beside its specification."""

    blocks: int
    documents: int
    rows: int
    entries: int
    text_tokens: int
    table_offset: int
    fingerprint: str

    def pack(self, spec: PackSpec) -> bytes:
        """The header as it is stored."""
        fields = HEADER.pack(
            MAGIC, VERSION, spec.row_length, spec.piece_length, spec.packing == "concatenate", spec.side == "held_out",
            _native.BLOCK_DOCUMENTS, spec.below, split_key(), self.documents, self.blocks, self.rows, self.entries,
            self.text_tokens, self.table_offset, self.fingerprint.encode(), 0,
        )  # fmt: skip
        return (fields[:-4] + _checksum(fields)).ljust(HEADER_BYTES, b"\0")


def _checksum(header: bytes) -> bytes:
    """The last four bytes of a header: the crc32 of those before."""
    return zlib.crc32(header[: HEADER.size - 4]).to_bytes(4, "little")


def _current_header(corpus: Corpus, spec: PackSpec, path: Path) -> _Header | None:
    """The header of an index that was built from this corpus in this way, else None."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            content = file.read(HEADER_BYTES)
    except OSError as error:
        raise DataError(f"{path}: reading {HEADER_BYTES} bytes at offset 0 failed: {error.strerror}") from error
    whole = len(content) == HEADER_BYTES and content[: len(MAGIC)] == MAGIC
    if not whole or _checksum(content) != content[HEADER.size - 4 : HEADER.size]:
        raise DataError(f"{path}: damaged pack index: its header is not whole; delete the file, it is built again")
    values = HEADER.unpack(content[: HEADER.size])
    documents, blocks, rows, entries, text_tokens, table_offset = values[9:15]
    header = _Header(
        blocks=blocks, documents=documents, rows=rows, entries=entries, text_tokens=text_tokens,
        table_offset=table_offset, fingerprint=values[15].decode("ascii", "replace"),
    )  # fmt: skip
    return header if header.fingerprint == corpus.fingerprint and content == header.pack(spec) else None


def native_corpus(corpus: Corpus) -> _native.IndexedCorpus:
    """The corpus as the native code reads it; its files stay open. Raises DataError where there are too many."""
    allow_open_files(2 * len(corpus.pairs), f"{corpus.prefix}: has {len(corpus.pairs)} parts")
    return _native.IndexedCorpus([str(pair.prefix) for pair in corpus.pairs], corpus.eod is not None)


def open_pack(corpus: Corpus, spec: PackSpec, threads: int = 1) -> PackIndex:
    """Open the pack index of a corpus, building it first when there is none or the corpus was built anew.

    Opening reads the header and 32 bytes a block (131,072 documents). Raises DataError when the index is damaged.
    """
    path, native = replace(spec, folder="").path(corpus), native_corpus(corpus)
    header = _current_header(corpus, spec, path)
    if header is None and spec.folder:
        path = spec.path(corpus)
        header = _current_header(corpus, spec, path)
    if header is None:
        with only_one_builds(path):
            header = _current_header(corpus, spec, path) or _build(corpus, native, spec, path, threads)
    pack = _native.PackFile(str(path), header.table_offset, header.blocks, header.documents, spec.row_length)
    if (pack.rows, pack.entries, pack.text_tokens) != (header.rows, header.entries, header.text_tokens):
        raise DataError(f"{path}: damaged pack index: totals differ; delete the file, it is built again")
    return PackIndex(
        spec=spec, path=path, native=pack, corpus=native,
        rows=header.rows, pieces=header.entries, text_tokens=header.text_tokens,
    )  # fmt: skip


def _build(corpus: Corpus, native: _native.IndexedCorpus, spec: PackSpec, path: Path, threads: int) -> _Header:
    """Write a pack index: room for the header, the blocks, the table of their places and totals, then the header."""
    hashes = text_hashes(corpus, native, threads, spec.folder) if spec.below else None
    block_size: int = _native.BLOCK_DOCUMENTS
    blocks, wave = -(-corpus.documents // block_size), BLOCKS_PER_WAVE * threads
    table = np.zeros((blocks + 1, 4), np.uint64)
    table[0, 0] = HEADER_BYTES
    with (
        publish_file(path) as staging,
        staging.open("wb") as out,
        Progress(f"pack {corpus.prefix.name}", corpus.documents, " docs") as progress,
    ):
        out.write(bytes(HEADER_BYTES))
        for first in range(0, blocks, wave):
            packed = _native.pack_blocks(
                native, first, min(wave, blocks - first), row_length=spec.row_length, piece_length=spec.piece_length,
                concatenated=spec.packing == "concatenate", key=split_key(), below=spec.below,
                hashes=None if hashes is None else hashes[first * block_size : (first + wave) * block_size],
                held_out=spec.side == "held_out", threads=threads,
            )  # fmt: skip
            for block, (entries, directory, rows, text_tokens) in enumerate(packed, first):
                padding = bytes(-directory.nbytes % 8)
                written = sum(out.write(part) for part in (entries.data, directory.data, padding))
                table[block + 1] = table[block] + np.array([written, rows, len(entries), text_tokens], np.uint64)
            progress.update(min((first + wave) * block_size, corpus.documents))
        out.write(table.tobytes())
        offset, rows, entries, text_tokens = (int(value) for value in table[-1])
        header = _Header(
            blocks=blocks, documents=corpus.documents, rows=rows, entries=entries, text_tokens=text_tokens,
            table_offset=offset, fingerprint=corpus.fingerprint,
        )  # fmt: skip
        out.seek(0)
        out.write(header.pack(spec))
        return header
