"""The full check of a corpus: one read of every byte, in threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin import _native
from megatron_ettin.corpus.checksum import checksum_text, file_checksum
from megatron_ettin.corpus.format import DTYPES, IndexHeader, corpus_prefix, member, read_header
from megatron_ettin.corpus.manifest import Manifest, read_manifest
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.corpus.together import joined_tokens, manifests_of, merged_index
from megatron_ettin.errors import DataError
from megatron_ettin.machine import cores
from megatron_ettin.progress import Progress
from megatron_ettin.tokenizer.tokenizer import Tokenizer

RANGE_BYTES = 64 << 20
"""About how much of a .bin one task reads."""


@dataclass(frozen=True)
class Contents:
    """What a full read of a corpus found."""

    header: IndexHeader
    tokens: int
    empty_documents: int
    without_eod: int
    starts_special: int
    largest_id: int
    bin_bytes: int
    bin_checksum: int
    idx_checksum: int
    problems: tuple[str, ...]
    """What is wrong with the index; when there is something, the other fields cover only a part."""


@dataclass(frozen=True)
class Verification:
    """The outcome of a check."""

    problems: tuple[str, ...]
    bytes: int
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def scan_corpus(
    prefix: Path, *, eod: int | None = None, first_special: int | None = None, threads: int = 0
) -> Contents:
    """Read a whole corpus once; needs no manifest. Raises DataError for an unreadable or unsound one."""
    index, tokens = member(prefix, ".idx"), member(prefix, ".bin")
    header = read_header(index)
    if not tokens.is_file():
        raise DataError(f"{tokens}: no such file")
    size = tokens.stat().st_size
    workers = threads or cores()
    tasks = max(1, min(header.documents, max(workers, size // RANGE_BYTES)))
    bounds = [header.documents * i // tasks for i in range(tasks + 1)]

    def scan_range(first: int, last: int) -> dict[str, Any]:
        found: dict[str, Any] = _native.check_documents(
            index_path=str(index), tokens_path=str(tokens), sequences=header.sequences, documents=header.documents,
            token_bytes=size, itemsize=DTYPES[header.dtype], first=first, last=last,
            eod=-1 if eod is None else eod, first_special=-1 if first_special is None else first_special,
        )  # fmt: skip
        return found

    results = []
    with ThreadPoolExecutor(workers) as pool, Progress("verify", size, "B") as progress:
        for result in pool.map(scan_range, bounds[:-1], bounds[1:]):
            results.append(result)
            progress.update(sum(done["tokens"][1] for done in results))

    def joined(checksum: int, *names: str) -> int:
        for name in names:
            for result in results:
                checksum = _native.crc32c_combine(checksum, *result[name])
        return checksum

    return Contents(
        header=header,
        tokens=sum(result["token_count"] for result in results),
        empty_documents=sum(result["empty_documents"] for result in results),
        without_eod=sum(result["without_eod"] for result in results),
        starts_special=sum(result["starts_special"] for result in results),
        largest_id=max(result["largest_id"] for result in results),
        bin_bytes=size,
        bin_checksum=joined(0, "tokens"),
        idx_checksum=joined(_native.crc32c(header.encode()), "lengths", "pointers", "documents"),
        problems=tuple(result["problem"] for result in results if result["problem"]),
    )


def _differences(manifest: Manifest, contents: Contents, idx_bytes: int) -> list[str]:
    """In what a full read differs from what the manifest says."""
    header = contents.header
    pairs = [
        ("dtype", header.dtype, manifest.dtype),
        ("documents", header.documents, manifest.documents),
        ("sequences", header.sequences, manifest.sequences),
        ("tokens", contents.tokens, manifest.tokens),
        ("empty documents", contents.empty_documents, manifest.empty_documents),
        (".bin bytes", contents.bin_bytes, manifest.files[".bin"].bytes),
        (".idx bytes", idx_bytes, manifest.files[".idx"].bytes),
        (".bin checksum", checksum_text(contents.bin_checksum), manifest.files[".bin"].checksum),
        (".idx checksum", checksum_text(contents.idx_checksum), manifest.files[".idx"].checksum),
        ("documents of the sources", sum(source.documents for source in manifest.sources), manifest.documents),
        ("tokens of the sources", sum(source.tokens for source in manifest.sources), manifest.tokens),
    ]
    problems = [f"{name}: found {found}, the manifest says {told}" for name, found, told in pairs if found != told]
    if contents.tokens and contents.largest_id >= manifest.tokenizer.vocabulary:
        problems.append(f"id {contents.largest_id} is outside the vocabulary of {manifest.tokenizer.vocabulary}")
    if contents.without_eod:
        problems.append(f"{contents.without_eod} documents do not end with the eod {manifest.appended_eod}")
    return problems


def _has_its_tokenizer(path: Path, manifest: Manifest) -> bool:
    """Whether the tokenizer.json beside a corpus is the one that made it. Raises DataError when it cannot be read."""
    if (recorded := manifest.files.get(".tokenizer.json")) is None:
        return Tokenizer.from_file(path, engine="huggingface").fingerprint == manifest.tokenizer.sha256
    try:
        return file_checksum(path.read_bytes()) == recorded
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def verify_corpus(path: str | Path, *, threads: int = 0) -> Verification:
    """Check every byte of a corpus against its manifest and every rule of the format. Reads everything once.

    Finds flipped bits, cut files, offsets out of place, ids outside the vocabulary, a missing eod, a wrong tokenizer;
    of a joined corpus in each of its parts, and a part that is another one than was joined.
    """
    begun = time.monotonic()
    prefix = corpus_prefix(path)
    size, problems = 0, list[str]()
    try:
        manifest = read_manifest(member(prefix, ".json"))
        if manifest.parts:
            size, problems = _verify_parts(open_corpus(prefix), threads)
        else:
            size, problems = _verify_files(prefix, manifest, threads)
        tokenizer = member(prefix, ".tokenizer.json")
        if not _has_its_tokenizer(tokenizer, manifest):
            problems.append(f"{tokenizer}: is not the tokenizer that made the corpus")
    except DataError as error:
        problems.append(str(error))
    return Verification(tuple(problems), size, time.monotonic() - begun)


def _verify_files(prefix: Path, manifest: Manifest, threads: int) -> tuple[int, list[str]]:
    """Bytes read, and what is wrong with one .bin/.idx pair."""
    contents = scan_corpus(prefix, eod=manifest.appended_eod, threads=threads)
    idx_bytes = member(prefix, ".idx").stat().st_size
    size = contents.bin_bytes + idx_bytes
    return size, list(contents.problems) or _differences(manifest, contents, idx_bytes)


def _verify_parts(corpus: Corpus, threads: int) -> tuple[int, list[str]]:
    """Bytes read, and what is wrong with the parts of a joined corpus, each of which is the one that was joined."""
    size, problems = 0, []
    for pair in corpus.pairs:
        try:
            read, found = _verify_files(pair.prefix, read_manifest(member(pair.prefix, ".json")), threads)
            size += read
        except DataError as error:
            found = [str(error)]
        problems += [f"{pair.prefix}: {problem}" for problem in found]
    if not problems:
        merged = {
            ".bin": joined_tokens([manifest.files[".bin"] for manifest in manifests_of(corpus)]),
            ".idx": merged_index(corpus.pairs, threads),
        }
        problems = [
            f"{suffix} of all parts: {found.checksum} ({found.bytes} bytes), the manifest says "
            f"{told.checksum} ({told.bytes} bytes)"
            for suffix, found in merged.items()
            if found != (told := corpus.manifest.files[suffix])
        ]
    return size, problems
