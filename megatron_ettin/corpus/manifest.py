"""The manifest of a corpus: what is in it, what made it, and the checksums that prove it is whole."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_ettin.corpus.format import DTYPES
from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.identity import TokenizerIdentity
from megatron_ettin.typed_json import Count, FieldError, decode, load_json

FORMAT = "megatron-ettin-corpus"
VERSION = 1
MAXIMUM_MANIFEST_BYTES = 2**30
HEAD_BYTES = 512
FINGERPRINT = re.compile(rb'^ "fingerprint": "([0-9a-f]{64})",$', re.MULTILINE)
"""The line of a manifest, near its start, that holds its fingerprint."""


@dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """One input file, or the part of it that a shard read."""

    path: str
    """Of a file that was fetched, its address, without anything secret."""
    format: str
    bytes: Count
    """Bytes of the file as it lies on the disk (of the part that was read)."""
    documents: Count
    empty_documents: Count
    tokens: Count
    checksum: str
    """crc32c of those bytes, as "crc32c:xxxxxxxx"."""
    text_bytes: Count = 0
    """Bytes of UTF-8 text in the accepted documents."""
    begin: Count = 0
    """First byte (or row) of the part that was read."""
    blank_lines: Count = 0
    lone_surrogates: Count = 0
    """Surrogate escapes without a partner, each replaced by U+FFFD."""
    specials_in_text: Count = 0
    rejected: dict[str, Count] = field(default_factory=dict)
    """Records that were skipped, by kind: a line of JSON, a row of a table, a text."""
    file_bytes: Count = 0
    """Of a file that was fetched, the size of the whole."""
    etag: str = ""
    """What the server called its content: an ETag, a hash, or the time of its last change."""
    revision: str = ""
    """The commit of the hub that it was fetched from."""


@dataclass(frozen=True, kw_only=True)
class FileChecksum:
    """Size and checksum of one output file."""

    bytes: Count
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of the inputs this corpus holds."""

    index: Count
    count: Count


@dataclass(frozen=True, kw_only=True)
class JoinedPart:
    """A corpus whose documents a joined one takes from where they lie."""

    prefix: str
    """Relative to the folder of the joined corpus where the part lies there or below, else absolute."""
    fingerprint: str
    documents: Count
    sequences: Count
    tokens: Count


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of PREFIX.json. The files count only once it is there."""

    builder: str
    command: str
    tokenizer: TokenizerIdentity
    appended_eod: Count | None
    dtype: str
    documents: Count
    empty_documents: Count
    sequences: Count
    tokens: Count
    specials_in_text: Count
    sources: tuple[SourceSummary, ...]
    """The input files; of a joined corpus they stand in the manifests of its parts."""
    files: dict[str, FileChecksum]
    """By suffix. Of a joined corpus, what its parts give when they are merged: .bin and .idx are not there."""
    key: str | None = None
    level: str = "document"
    shard: Shard | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting of the build that has a say in the ids."""
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By reason: what the folders and globs that were given hold and was not read, or not read again."""
    parts: tuple[JoinedPart, ...] = ()
    """Of a joined corpus: where its documents lie, in order."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the content: the checksums and sizes of both files, the dtype, eod and tokenizer."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self.tokenizer.sha256,
            "appended_eod": self.appended_eod,
            "dtype": self.dtype,
            "documents": self.documents,
            "tokens": self.tokens,
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the accepted documents."""
        return sum(source.text_bytes for source in self.sources)

    @property
    def rejected(self) -> dict[str, int]:
        """Skipped records of all sources, by kind."""
        totals: dict[str, int] = {}
        for source in self.sources:
            for kind, count in source.rejected.items():
                totals[kind] = totals.get(kind, 0) + count
        return totals

    def to_json(self) -> str:
        """The text of PREFIX.json."""
        content = {"format": FORMAT, "version": VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        if not self.parts:
            del content["parts"]
        return json.dumps(content, indent=1) + "\n"


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """The manifest in ``text``. Raises DataError, naming ``where``, when it is not a manifest or was altered."""
    try:
        content = load_json(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise FieldError(f"not the manifest of a corpus (format {FORMAT!r}, version {VERSION})")
        manifest = decode(Manifest, content)
    except FieldError as error:
        raise DataError(f"{where}: {error}; rebuild the corpus") from error
    if manifest.dtype not in DTYPES:
        raise DataError(f"{where}: dtype={manifest.dtype!r} must be uint16 or int32; rebuild the corpus")
    if absent := {".bin", ".idx"} - manifest.files.keys():
        raise DataError(f"{where}: files has no {min(absent)}; rebuild the corpus")
    if manifest.shard is not None and manifest.shard.index >= manifest.shard.count:
        raise DataError(f"{where}: shard.index={manifest.shard.index} must be below shard.count; rebuild the corpus")
    if content.get("fingerprint") != manifest.fingerprint:
        raise DataError(f"{where}: the fingerprint does not fit the content, the file was altered; rebuild the corpus")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Read PREFIX.json. Raises DataError when it is absent, not a manifest, or altered."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; a corpus counts only with its manifest, which `ettin prepare` writes last: "
            "finish the build by running its command again, or give a corpus made elsewhere one with "
            "`ettin corpus adopt`"
        )
    size = path.stat().st_size
    if size > MAXIMUM_MANIFEST_BYTES:
        raise DataError(f"{path}: {size} bytes is too large for a manifest; rebuild the corpus")
    return parse_manifest(path.read_bytes(), str(path))


def read_fingerprint(path: Path) -> str:
    """The fingerprint in a PREFIX.json, from its first lines. Raises DataError as ``read_manifest`` does."""
    try:
        with open(path, "rb") as stream:
            found = FINGERPRINT.search(stream.read(HEAD_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return found[1].decode() if found else read_manifest(path).fingerprint
