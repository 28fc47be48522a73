"""What several corpora are as one: whether they fit, their sources, and the manifest of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate

from megatron_ettin import __version__, _native
from megatron_ettin.corpus.checksum import checksum_text, checksum_value
from megatron_ettin.corpus.format import IndexHeader, member
from megatron_ettin.corpus.manifest import FileChecksum, JoinedPart, Manifest, SourceSummary, read_manifest
from megatron_ettin.corpus.pair import Pair
from megatron_ettin.corpus.reader import Corpus
from megatron_ettin.errors import DataError
from megatron_ettin.machine import cores
from megatron_ettin.progress import Progress


def require_fit(parts: Sequence[Corpus]) -> None:
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
            found = ", ".join(f"{shard.index}/{shard.count}" if shard else "a whole corpus" for shard in shards[:20])
            more = f" and {len(shards) - 20} more" if len(shards) > 20 else ""
            raise DataError(f"shards {found}{more}: give all shards of one build, in order, and nothing else")


def manifests_of(corpus: Corpus) -> list[Manifest]:
    """The manifests that name the sources of a corpus: its own, or those of the parts of a joined one."""
    if not corpus.manifest.parts:
        return [corpus.manifest]
    return [read_manifest(member(pair.prefix, ".json")) for pair in corpus.pairs]


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


def _join_left_out(parts: Sequence[Manifest]) -> dict[str, tuple[str, ...]]:
    """What all parts left out; shards of one build say the same."""
    reasons = dict.fromkeys(reason for part in parts for reason in part.left_out)
    return {
        reason: tuple(dict.fromkeys(path for part in parts for path in part.left_out.get(reason, ())))
        for reason in reasons
    }


def joined_tokens(files: Sequence[FileChecksum]) -> FileChecksum:
    """Size and checksum of files one after the other. O(number of files)."""
    checksum = 0
    for file in files:
        checksum = _native.crc32c_combine(checksum, checksum_value(file.checksum), file.bytes)
    return FileChecksum(bytes=sum(file.bytes for file in files), checksum=checksum_text(checksum))


def whole_header(pairs: Sequence[Pair]) -> IndexHeader:
    """The header of the index of all pairs."""
    return IndexHeader(
        dtype=pairs[0].header.dtype,
        sequences=sum(pair.header.sequences for pair in pairs),
        documents=sum(pair.documents for pair in pairs),
    )


def merged_index(pairs: Sequence[Pair], threads: int = 0) -> FileChecksum:
    """Size and checksum of the .idx that pairs get when they are merged. Reads every .idx once, in threads."""
    header = whole_header(pairs)
    bytes_before = accumulate((pair.token_bytes for pair in pairs), initial=0)
    sequences_before = accumulate((pair.header.sequences for pair in pairs), initial=0)

    def moved(pair: Pair, bytes_before: int, sequences_before: int) -> tuple[tuple[int, int], ...]:
        path = member(pair.prefix, ".idx")
        try:
            found: tuple[tuple[int, int], ...] = _native.checksum_index(
                str(path), pair.header.sequences, pair.documents, bytes_before=bytes_before,
                sequences_before=sequences_before,
            )  # fmt: skip
        except RuntimeError as error:
            raise DataError(f"{error}; verify the parts") from error
        return found

    pieces = []
    with ThreadPoolExecutor(threads or cores()) as pool, Progress("join", len(pairs), " parts") as progress:
        for piece in pool.map(moved, pairs, bytes_before, sequences_before):
            pieces.append(piece)
            progress.update(len(pieces))
    checksum = _native.crc32c(header.encode())
    for array in range(3):
        if array == 2:
            checksum = _native.crc32c(bytes(8), checksum)  # the first document index
        for piece in pieces:
            checksum = _native.crc32c_combine(checksum, *piece[array])
    return FileChecksum(bytes=header.file_bytes, checksum=checksum_text(checksum))


def whole_manifest(
    parts: Sequence[Manifest], tokens: FileChecksum, index: FileChecksum, command: str, joined: tuple[JoinedPart, ...]
) -> Manifest:
    """The manifest of the documents of all parts, whose files are ``tokens`` and ``index`` when they are merged.

    With ``joined``, the sources and what was left out stay in the manifests of the parts.
    """
    return replace(
        parts[0],
        builder=f"megatron-ettin {__version__}",
        command=command,
        documents=sum(part.documents for part in parts),
        sequences=sum(part.sequences for part in parts),
        empty_documents=sum(part.empty_documents for part in parts),
        tokens=sum(part.tokens for part in parts),
        specials_in_text=sum(part.specials_in_text for part in parts),
        sources=() if joined else join_sources([source for part in parts for source in part.sources]),
        files=parts[0].files | {".bin": tokens, ".idx": index},
        shard=None,
        settings={},
        left_out={} if joined else _join_left_out(parts),
        parts=joined,
    )


def described(corpus: Corpus) -> Manifest:
    """The manifest of a corpus with all its sources; of a joined one it reads the manifests of the parts."""
    if not corpus.manifest.parts:
        return corpus.manifest
    parts = manifests_of(corpus)
    sources = join_sources([source for part in parts for source in part.sources])
    return replace(corpus.manifest, sources=sources, left_out=_join_left_out(parts))
