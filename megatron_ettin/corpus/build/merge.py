"""Merging corpora: the .bin files are appended by the kernel, the .idx is computed anew.

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

from megatron_ettin.corpus.build.shards import require_same_settings
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.corpus.checksum import ChecksummedWriter
from megatron_ettin.corpus.format import (
    SEQUENCES_AT_ONCE,
    corpus_prefix,
    hash_path,
    member,
    remove_hashes,
)
from megatron_ettin.corpus.manifest import FileChecksum
from megatron_ettin.corpus.pair import Pair
from megatron_ettin.corpus.places import partitioned
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.corpus.together import joined_tokens, require_fit, whole_header, whole_manifest
from megatron_ettin.errors import DataError
from megatron_ettin.machine import copy_between
from megatron_ettin.progress import Progress
from megatron_ettin.publish import write_atomically


def _write_tokens(pairs: Sequence[Pair], target: Path) -> None:
    """Write the .bin of all pairs."""
    if len(pairs) == 1:
        with contextlib.suppress(OSError):
            os.link(member(pairs[0].prefix, ".bin"), target)
            return
    done, total = 0, sum(pair.token_bytes for pair in pairs)
    with open(target, "wb", buffering=0) as out, Progress("merge", total, "B") as progress:
        for pair in pairs:
            path, left = member(pair.prefix, ".bin"), pair.token_bytes
            with open(path, "rb", buffering=0) as stream:
                while left:
                    if not (copied := copy_between(stream.fileno(), out.fileno(), left)):
                        raise DataError(f"{path}: became shorter while it was read; verify the parts")
                    left, done = left - copied, done + copied
                    progress.update(done)


def _pieces(array: NDArray[np.generic], first: int = 0) -> Iterator[NDArray[np.generic]]:
    for at in range(first, len(array), SEQUENCES_AT_ONCE):
        yield array[at : at + SEQUENCES_AT_ONCE]


def _write_index(pairs: Sequence[Pair], target: Path) -> FileChecksum:
    """Write the .idx of all pairs. Memory is bounded."""
    with open(target, "wb") as stream:
        writer = ChecksummedWriter(stream)
        writer.write(whole_header(pairs).encode())
        for pair in pairs:
            for piece in _pieces(pair.map().lengths):
                writer.write(piece.tobytes())
        offset = 0
        for pair in pairs:
            for piece in _pieces(pair.map().pointers):
                writer.write((piece + np.int64(offset)).tobytes())  # type: ignore[operator]
            offset += pair.token_bytes
        writer.write(np.zeros(1, "<i8").tobytes())
        offset = 0
        for pair in pairs:
            for piece in _pieces(pair.map().document_indices, 1):
                writer.write((piece + np.int64(offset)).tobytes())  # type: ignore[operator]
            offset += pair.header.sequences
    return writer.written


def open_parts(prefixes: Sequence[str | Path], verb: str) -> list[Corpus]:
    """The corpora that are to become one, checked; for a joined corpus, its parts. Raises DataError."""
    if not prefixes:
        raise DataError(f"nothing to {verb}: name at least one corpus")
    given = [open_corpus(prefix) for prefix in prefixes]
    require_fit(given)
    for part in given[1:]:
        if part.manifest.shard is not None:
            require_same_settings(given[0].manifest, part.manifest.settings, given[0].prefix, part.prefix)
    found = []
    for corpus in given:
        found += [open_corpus(pair.prefix) for pair in corpus.pairs] if corpus.manifest.parts else [corpus]
    return found


def require_free(prefix: Path) -> None:
    """Raise DataError when files of a corpus are there."""
    for suffix in (".bin", ".idx", ".json"):
        if member(prefix, suffix).exists():
            raise DataError(f"{member(prefix, suffix)}: exists already; choose another name")


def merge_corpora(prefixes: Sequence[str | Path], target: str | Path, *, command: str = "merge") -> Corpus:
    """Copy corpora, in order, into ``target``; the parts stay. Shards of one build give the bytes of the whole build.

    Raises DataError when the parts do not fit together or the target is there.
    """
    parts = open_parts(prefixes, "merge")
    prefix = corpus_prefix(target)
    require_free(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(prefix, 1, parts[0].manifest.dtype)
    with staging.owned(command):
        staging.finish_publication()
        staging.discard()
        _publish(parts, prefix, staging, command)
        staging.remove()
    return open_corpus(prefix)


def _publish(parts: Sequence[Corpus], prefix: Path, staging: Staging, command: str) -> None:
    tokens, index, text, hashes = (staging.folder / name for name in ("bin", "idx", "json", "hashes"))
    pairs = [part.pairs[0] for part in parts]
    manifests = [part.manifest for part in parts]
    _write_tokens(pairs, tokens)
    written = _write_index(pairs, index)
    recorded = joined_tokens([manifest.files[".bin"] for manifest in manifests])
    manifest = whole_manifest(manifests, recorded, written, command, ())
    orders = [[order.documents, order.partitions] for part in manifests for order in partitioned(part)]
    kept = {"partitioned": orders} if any(partitions > 1 for _, partitions in orders) else {}
    manifest = replace(manifest, settings={"merged": [str(part.prefix) for part in parts], **kept})
    write_atomically(text, manifest.to_json())
    moves = {tokens: member(prefix, ".bin"), index: member(prefix, ".idx")} | stage_tokenizer(parts[0], prefix, staging)
    hashes_of_parts = [hash_path(part.prefix, part.fingerprint) for part in parts]
    if all(path.is_file() for path in hashes_of_parts):
        with open(hashes, "wb") as out:
            for path in hashes_of_parts:
                with open(path, "rb") as stream:
                    shutil.copyfileobj(stream, out)
        remove_hashes(prefix)
        moves[hashes] = hash_path(prefix, manifest.fingerprint)
    staging.publish(moves, {text: member(prefix, ".json")})


def stage_tokenizer(part: Corpus, prefix: Path, staging: Staging) -> dict[Path, Path]:
    """A copy of the tokenizer of a part, where it has one, and the name that it gets."""
    if not part.tokenizer_json.exists():
        return {}
    staged = staging.folder / "tokenizer"
    shutil.copyfile(part.tokenizer_json, staged)
    return {staged: member(prefix, ".tokenizer.json")}
