"""Joining corpora: the .bin files are appended by the kernel, the .idx is computed anew.

``copy_file_range`` lets the file system share or copy the blocks itself (XFS, Btrfs, NFS 4.2, and within the page
cache elsewhere): ids never pass through this process, and their checksum is combined from those of the parts. A
merge of one corpus is a hard link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin import __version__
from megatron_ettin.corpus.build.publish import checksum_text
from megatron_ettin.corpus.build.staging import ChecksummedWriter, Staging
from megatron_ettin.corpus.format import CHUNK, IndexHeader
from megatron_ettin.corpus.manifest import FileRecord, Manifest, SourceRecord
from megatron_ettin.corpus.names import corpus_prefix, hash_path, member, remove_hashes
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.progress import Progress
from megatron_ettin.publish import write_atomically

COPY_BYTES = 256 << 20


def _checksum(text: str) -> int:
    kind, _, value = text.partition(":")
    if kind != "crc32c":
        raise DataError(f"checksum {text!r}: only crc32c is known; build the corpus again")
    return int(value, 16)


def _check_parts(parts: Sequence[Corpus]) -> None:
    """Only corpora of one kind make a corpus; shards must be all there, in order."""
    first = parts[0].manifest
    for part in parts[1:]:
        manifest = part.manifest
        for name in ("dtype", "tokenizer", "appended_eod", "level"):
            if getattr(manifest, name) != getattr(first, name):
                raise DataError(
                    f"{part.prefix}: {name} is {getattr(manifest, name)}, but {getattr(first, name)} in "
                    f"{parts[0].prefix}; build both with the same tokenizer and settings"
                )
    shards = [part.manifest.shard for part in parts]
    if any(shard is not None for shard in shards):
        expected = range(shards[0].count if shards[0] else 0)
        if [shard and (shard.index, shard.count) for shard in shards] != [(i, len(expected)) for i in expected]:
            found = ", ".join(f"{shard.index}/{shard.count}" if shard else "a whole corpus" for shard in shards)
            raise DataError(f"shards {found}: give all shards of one build, in order, and nothing else")


def _append(target: int, source: Path, progress: Progress, done: int) -> int:
    """Append a file to an open one; returns the bytes appended."""
    with open(source, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        copied = 0
        while copied < size:
            copied += _copy_some(stream.fileno(), target, size - copied)
            progress.update(done + copied)
    return size


def _copy_some(source: int, target: int, size: int) -> int:
    try:
        count = os.copy_file_range(source, target, min(size, COPY_BYTES))
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY):
            raise
        count = os.write(target, os.read(source, min(size, 8 << 20)))
    if count == 0:
        raise DataError("a part became shorter while it was read; verify the parts")
    return count


def _join_tokens(parts: Sequence[Corpus], target: Path) -> tuple[int, int]:
    """Write the joined .bin; returns (bytes, checksum)."""
    from megatron_ettin import _native

    size = checksum = 0
    records = [part.manifest.files[".bin"] for part in parts]
    for record in records:
        checksum = _native.crc32c_combine(checksum, _checksum(record.checksum), record.bytes)
    if len(parts) == 1:
        with contextlib.suppress(OSError):
            os.link(member(parts[0].prefix, ".bin"), target)
            return records[0].bytes, checksum
    with Progress("merge", sum(record.bytes for record in records), "B") as progress:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for part in parts:
                size += _append(descriptor, member(part.prefix, ".bin"), progress, size)
        finally:
            os.close(descriptor)
    return size, checksum


def _pieces(array: NDArray[np.generic], start: int = 0) -> Iterator[NDArray[np.generic]]:
    for at in range(start, len(array), CHUNK):
        yield array[at : at + CHUNK]


def _join_index(parts: Sequence[Corpus], target: Path) -> tuple[int, int, IndexHeader]:
    """Write the joined .idx; returns (bytes, checksum, header). Memory is bounded."""
    header = IndexHeader(
        dtype=parts[0].manifest.dtype,
        sequences=sum(part.sequences for part in parts),
        documents=sum(part.documents for part in parts),
    )
    with open(target, "wb") as stream:
        writer = ChecksummedWriter(stream)
        writer.write(header.encode())
        for part in parts:
            for piece in _pieces(part.layout.lengths):
                writer.write(piece.tobytes())
        offset = 0
        for part in parts:
            for piece in _pieces(part.layout.pointers):
                writer.write((piece + np.int64(offset)).tobytes())  # type: ignore[operator]
            offset += part.layout.tokens.nbytes
        writer.write(np.zeros(1, "<i8").tobytes())
        offset = 0
        for part in parts:
            for piece in _pieces(part.layout.document_indices, 1):
                writer.write((piece + np.int64(offset)).tobytes())  # type: ignore[operator]
            offset += part.sequences
    return writer.size, writer.checksum, header


def join_sources(sources: Sequence[SourceRecord]) -> tuple[SourceRecord, ...]:
    """Parts of one file that follow each other become one source."""
    from megatron_ettin import _native

    joined: list[SourceRecord] = []
    for source in sources:
        last = joined[-1] if joined else None
        if last is None or last.path != source.path or last.begin + last.bytes != source.begin or not source.begin:
            joined.append(source)
            continue
        sums = ("bytes", "documents", "empty_documents", "tokens", "text_bytes", "blank_lines", "lone_surrogates")
        kinds = {*last.rejected, *source.rejected}
        checksum = _native.crc32c_combine(_checksum(last.checksum), _checksum(source.checksum), source.bytes)
        joined[-1] = replace(
            last,
            **{name: getattr(last, name) + getattr(source, name) for name in (*sums, "specials_in_text")},
            rejected={kind: last.rejected.get(kind, 0) + source.rejected.get(kind, 0) for kind in sorted(kinds)},
            checksum=checksum_text(checksum),
        )
    return tuple(joined)


def merge_corpora(prefixes: Sequence[str | Path], target: str | Path, *, command: str = "merge") -> Corpus:
    """Join corpora, in order, into ``target``; the parts stay. Shards of one build give the bytes of the whole build.

    Raises DataError when the parts do not fit together or the target is there.
    """
    if not prefixes:
        raise DataError("nothing to merge: name at least one corpus")
    parts = [open_corpus(prefix) for prefix in prefixes]
    _check_parts(parts)
    prefix = corpus_prefix(target)
    for suffix in (".bin", ".idx", ".json"):
        if member(prefix, suffix).exists():
            raise DataError(f"{member(prefix, suffix)}: exists already; choose another name")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(prefix, 1, parts[0].manifest.dtype)
    with staging.locked():
        staging.finish_publication()
        staging.discard()
        _publish(parts, prefix, staging, command)
        staging.remove()
    return open_corpus(prefix)


def _publish(parts: Sequence[Corpus], prefix: Path, staging: Staging, command: str) -> None:
    names = ("bin", "idx", "json", "tokenizer", "hashes")
    tokens, index, text, tokenizer, hashes = (staging.folder / name for name in names)
    size, checksum = _join_tokens(parts, tokens)
    index_size, index_checksum, header = _join_index(parts, index)
    manifests = [part.manifest for part in parts]
    manifest: Manifest = replace(
        manifests[0],
        builder=f"megatron-ettin {__version__}",
        command=command,
        documents=header.documents,
        sequences=header.sequences,
        empty_documents=sum(manifest.empty_documents for manifest in manifests),
        tokens=sum(manifest.tokens for manifest in manifests),
        specials_in_text=sum(manifest.specials_in_text for manifest in manifests),
        sources=join_sources([source for manifest in manifests for source in manifest.sources]),
        files=manifests[0].files
        | {
            ".bin": FileRecord(bytes=size, checksum=checksum_text(checksum)),
            ".idx": FileRecord(bytes=index_size, checksum=checksum_text(index_checksum)),
        },
        shard=None,
        settings={"merged": [str(part.prefix) for part in parts]},
    )
    write_atomically(text, manifest.to_json())
    moves = {tokens: member(prefix, ".bin"), index: member(prefix, ".idx")}
    if parts[0].tokenizer_json.exists():
        shutil.copyfile(parts[0].tokenizer_json, tokenizer)
        moves[tokenizer] = member(prefix, ".tokenizer.json")
    if _join_hashes(parts, hashes):
        remove_hashes(prefix)
        moves[hashes] = hash_path(prefix, manifest.fingerprint)
    staging.publish(moves, {text: member(prefix, ".json")})


def _join_hashes(parts: Sequence[Corpus], target: Path) -> bool:
    """Write the joined text hashes, when every part has them."""
    paths = [hash_path(part.prefix, part.fingerprint) for part in parts]
    if not all(path.is_file() for path in paths):
        return False
    with open(target, "wb") as out:
        for path in paths:
            with open(path, "rb") as stream:
                shutil.copyfileobj(stream, out)
    return True
