"""Joining corpora: the .bin files are appended by the kernel, the .idx is computed anew.

``copy_file_range`` lets the file system share or copy the blocks itself (XFS, Btrfs, NFS 4.2, and within the page
cache elsewhere): ids never pass through this process, and their checksum is combined from those of the parts. A
merge of one corpus is a hard link.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ettin import __version__, _native
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.corpus.checksum import ChecksummedWriter, checksum_text, checksum_value
from megatron_ettin.corpus.format import (
    SEQUENCES_AT_ONCE,
    IndexHeader,
    corpus_prefix,
    hash_path,
    member,
    remove_hashes,
)
from megatron_ettin.corpus.manifest import FileChecksum, SourceSummary
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.machine import copy_between
from megatron_ettin.progress import Progress
from megatron_ettin.publish import write_atomically


def _require_fit(parts: Sequence[Corpus]) -> None:
    """Only corpora of one kind make a corpus; shards must be all there, in order. Raises DataError."""
    first = parts[0].manifest
    for part in parts[1:]:
        manifest = part.manifest
        if (other := parts[0].tokenizer_difference(part)) != "":
            raise DataError(
                f"{part.prefix}: tokenizer is not that of {parts[0].prefix} ({other or 'one has no fingerprint'}); "
                "build both with the same tokenizer and settings"
            )
        for name in ("dtype", "appended_eod", "level"):
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


def _join_tokens(parts: Sequence[Corpus], target: Path) -> FileChecksum:
    """Write the joined .bin."""
    files = [part.manifest.files[".bin"] for part in parts]
    checksum = 0
    for file in files:
        checksum = _native.crc32c_combine(checksum, checksum_value(file.checksum), file.bytes)
    joined = FileChecksum(bytes=sum(file.bytes for file in files), checksum=checksum_text(checksum))
    if len(parts) == 1:
        with contextlib.suppress(OSError):
            os.link(member(parts[0].prefix, ".bin"), target)
            return joined
    done = 0
    with open(target, "wb", buffering=0) as out, Progress("merge", joined.bytes, "B") as progress:
        for part, file in zip(parts, files, strict=True):
            path, left = member(part.prefix, ".bin"), file.bytes
            with open(path, "rb", buffering=0) as stream:
                while left:
                    if not (copied := copy_between(stream.fileno(), out.fileno(), left)):
                        raise DataError(f"{path}: became shorter while it was read; verify the parts")
                    left, done = left - copied, done + copied
                    progress.update(done)
    return joined


def _pieces(array: NDArray[np.generic], first: int = 0) -> Iterator[NDArray[np.generic]]:
    for at in range(first, len(array), SEQUENCES_AT_ONCE):
        yield array[at : at + SEQUENCES_AT_ONCE]


def _join_index(parts: Sequence[Corpus], target: Path) -> tuple[FileChecksum, IndexHeader]:
    """Write the joined .idx. Memory is bounded."""
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
    return writer.written, header


def join_sources(sources: Sequence[SourceSummary]) -> tuple[SourceSummary, ...]:
    """Parts of one file that follow each other become one source."""
    joined: list[SourceSummary] = []
    for source in sources:
        last = joined[-1] if joined else None
        if last is None or last.path != source.path or last.begin + last.bytes != source.begin or not source.begin:
            joined.append(source)
            continue
        sums = ("bytes", "documents", "empty_documents", "tokens", "text_bytes", "blank_lines", "lone_surrogates")
        kinds = {*last.rejected, *source.rejected}
        checksum = _native.crc32c_combine(
            checksum_value(last.checksum), checksum_value(source.checksum), source.bytes
        )
        joined[-1] = replace(
            last,
            **{name: getattr(last, name) + getattr(source, name) for name in (*sums, "specials_in_text")},
            rejected={kind: last.rejected.get(kind, 0) + source.rejected.get(kind, 0) for kind in sorted(kinds)},
            checksum=checksum_text(checksum),
        )
    return tuple(joined)


def _join_left_out(parts: Sequence[dict[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """What all parts left out; shards of one build say the same."""
    reasons = dict.fromkeys(reason for part in parts for reason in part)
    return {
        reason: tuple(dict.fromkeys(path for part in parts for path in part.get(reason, ()))) for reason in reasons
    }


def merge_corpora(prefixes: Sequence[str | Path], target: str | Path, *, command: str = "merge") -> Corpus:
    """Join corpora, in order, into ``target``; the parts stay. Shards of one build give the bytes of the whole build.

    Raises DataError when the parts do not fit together or the target is there.
    """
    if not prefixes:
        raise DataError("nothing to merge: name at least one corpus")
    parts = [open_corpus(prefix) for prefix in prefixes]
    _require_fit(parts)
    prefix = corpus_prefix(target)
    for suffix in (".bin", ".idx", ".json"):
        if member(prefix, suffix).exists():
            raise DataError(f"{member(prefix, suffix)}: exists already; choose another name")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(prefix, 1, parts[0].manifest.dtype)
    with staging.owned(command):
        staging.finish_publication()
        staging.discard()
        _publish(parts, prefix, staging, command)
        staging.remove()
    return open_corpus(prefix)


def _publish(parts: Sequence[Corpus], prefix: Path, staging: Staging, command: str) -> None:
    names = ("bin", "idx", "json", "tokenizer", "hashes")
    tokens, index, text, tokenizer, hashes = (staging.folder / name for name in names)
    joined_tokens = _join_tokens(parts, tokens)
    joined_index, header = _join_index(parts, index)
    manifests = [part.manifest for part in parts]
    manifest = replace(
        manifests[0],
        builder=f"megatron-ettin {__version__}",
        command=command,
        documents=header.documents,
        sequences=header.sequences,
        empty_documents=sum(manifest.empty_documents for manifest in manifests),
        tokens=sum(manifest.tokens for manifest in manifests),
        specials_in_text=sum(manifest.specials_in_text for manifest in manifests),
        sources=join_sources([source for manifest in manifests for source in manifest.sources]),
        files=manifests[0].files | {".bin": joined_tokens, ".idx": joined_index},
        shard=None,
        settings={"merged": [str(part.prefix) for part in parts]},
        left_out=_join_left_out([manifest.left_out for manifest in manifests]),
    )
    write_atomically(text, manifest.to_json())
    moves = {tokens: member(prefix, ".bin"), index: member(prefix, ".idx")}
    if parts[0].tokenizer_json.exists():
        shutil.copyfile(parts[0].tokenizer_json, tokenizer)
        moves[tokenizer] = member(prefix, ".tokenizer.json")
    hashes_of_parts = [hash_path(part.prefix, part.fingerprint) for part in parts]
    if all(path.is_file() for path in hashes_of_parts):
        with open(hashes, "wb") as out:
            for path in hashes_of_parts:
                with open(path, "rb") as stream:
                    shutil.copyfileobj(stream, out)
        remove_hashes(prefix)
        moves[hashes] = hash_path(prefix, manifest.fingerprint)
    staging.publish(moves, {text: member(prefix, ".json")})
