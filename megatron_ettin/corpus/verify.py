"""The full check of a corpus: one read of every byte, in threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.corpus.format import IndexHeader, read_header
from megatron_ettin.corpus.manifest import Manifest, read_manifest
from megatron_ettin.corpus.names import corpus_prefix, member
from megatron_ettin.errors import DataError
from megatron_ettin.machine import cores
from megatron_ettin.progress import Progress
from megatron_ettin.sources.compressed import RawFile
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


def _ranges(documents: int, token_bytes: int, threads: int) -> list[tuple[int, int]]:
    count = max(1, min(documents, max(threads, token_bytes // RANGE_BYTES)))
    bounds = [documents * i // count for i in range(count + 1)]
    return list(zip(bounds, bounds[1:], strict=False))


def scan_corpus(
    prefix: Path, *, eod: int | None = None, first_special: int | None = None, threads: int = 0
) -> Contents:
    """Read a whole corpus once; needs no manifest. Raises DataError for an unreadable or unsound one."""
    from megatron_ettin import _native

    index, tokens = member(prefix, ".idx"), member(prefix, ".bin")
    header = read_header(index)
    itemsize = 2 if header.dtype == "uint16" else 4
    if not tokens.is_file():
        raise DataError(f"{tokens}: no such file")
    size = tokens.stat().st_size
    workers = threads or cores()

    def check(bounds: tuple[int, int]) -> dict[str, Any]:
        found: dict[str, Any] = _native.check_documents(
            index_path=str(index), tokens_path=str(tokens), sequences=header.sequences, documents=header.documents,
            token_bytes=size, itemsize=itemsize, first=bounds[0], last=bounds[1],
            eod=-1 if eod is None else eod, first_special=-1 if first_special is None else first_special,
        )  # fmt: skip
        return found

    results = []
    with ThreadPoolExecutor(workers) as pool, Progress("verify", size, "B") as progress:
        for result in pool.map(check, _ranges(header.documents, size, workers)):
            results.append(result)
            progress.update(sum(done["tokens"][1] for done in results))
    return _combine(header, size, results)


def _combine(header: IndexHeader, size: int, results: list[dict[str, Any]]) -> Contents:
    from megatron_ettin import _native

    def joined(start: int, names: tuple[str, ...]) -> int:
        checksum = start
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
        bin_checksum=joined(0, ("tokens",)),
        idx_checksum=joined(_native.crc32c(header.encode()), ("lengths", "pointers", "documents")),
        problems=tuple(result["problem"] for result in results if result["problem"]),
    )


def _compare(manifest: Manifest, contents: Contents, idx_bytes: int) -> list[str]:
    header = contents.header
    pairs = [
        ("dtype", header.dtype, manifest.dtype),
        ("documents", header.documents, manifest.documents),
        ("sequences", header.sequences, manifest.sequences),
        ("tokens", contents.tokens, manifest.tokens),
        ("empty documents", contents.empty_documents, manifest.empty_documents),
        (".bin bytes", contents.bin_bytes, manifest.files[".bin"].bytes),
        (".idx bytes", idx_bytes, manifest.files[".idx"].bytes),
        (".bin checksum", f"crc32c:{contents.bin_checksum:08x}", manifest.files[".bin"].checksum),
        (".idx checksum", f"crc32c:{contents.idx_checksum:08x}", manifest.files[".idx"].checksum),
        ("documents of the sources", sum(source.documents for source in manifest.sources), manifest.documents),
        ("tokens of the sources", sum(source.tokens for source in manifest.sources), manifest.tokens),
    ]
    problems = [f"{name}: found {found}, the manifest says {told}" for name, found, told in pairs if found != told]
    if contents.tokens and contents.largest_id >= manifest.tokenizer.vocabulary:
        problems.append(f"id {contents.largest_id} is outside the vocabulary of {manifest.tokenizer.vocabulary}")
    if contents.without_eod:
        problems.append(f"{contents.without_eod} documents do not end with the eod {manifest.appended_eod}")
    return problems


def _check_tokenizer(prefix: Path, manifest: Manifest) -> list[str]:
    path, record = member(prefix, ".tokenizer.json"), manifest.files.get(".tokenizer.json")
    if record is not None:
        with RawFile(path) as raw:
            raw.drain()
        same = (raw.position, f"crc32c:{raw.checksum:08x}") == (record.bytes, record.checksum)
        return [] if same else [f"{path}: is not the tokenizer that made the corpus"]
    try:
        found = Tokenizer.from_file(path, engine="huggingface").fingerprint
    except DataError as error:
        return [str(error)]
    return [] if found == manifest.tokenizer.sha256 else [f"{path}: is not the tokenizer that made the corpus"]


def verify_corpus(path: str | Path, *, threads: int = 0) -> Verification:
    """Check every byte of a corpus against its manifest and every rule of the format. Reads everything once.

    Finds flipped bits, cut files, offsets out of place, ids outside the vocabulary, a missing eod, a wrong tokenizer.
    """
    start = time.monotonic()
    prefix = corpus_prefix(path)
    size = 0
    try:
        manifest = read_manifest(member(prefix, ".json"))
        contents = scan_corpus(prefix, eod=manifest.appended_eod, threads=threads)
        idx_bytes = member(prefix, ".idx").stat().st_size
        size = contents.bin_bytes + idx_bytes
        problems = list(contents.problems) or _compare(manifest, contents, idx_bytes)
        problems += _check_tokenizer(prefix, manifest)
    except DataError as error:
        problems = [str(error)]
    return Verification(tuple(problems), size, time.monotonic() - start)
