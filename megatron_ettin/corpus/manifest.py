"""The manifest of a corpus: what is in it, what made it, and the checksums that prove it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from megatron_ettin.errors import DataError

FORMAT = "megatron-ettin-corpus"
VERSION = 1
DTYPES = {"uint16": 2, "int32": 4}
"""Name and size in bytes of the types a corpus of ours is stored in."""

MAXIMUM_SIZE = 2**63 - 1
MAXIMUM_MANIFEST_BYTES = 2**30

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer that made the ids."""

    sha256: str
    """Fingerprint of the tokenizer.json, the same as ``Tokenizer.fingerprint``."""
    vocabulary: int
    """Number of ids, added tokens included."""
    special_ids: dict[str, int] = field(default_factory=dict)
    """Content of each special token and its id."""


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One input file, or the part of it that a shard read."""

    path: str
    format: str
    bytes: int
    """Bytes of the file as it lies on the disk (of the part that was read)."""
    documents: int
    empty_documents: int
    tokens: int
    checksum: str
    """crc32c of those bytes, as "crc32c:xxxxxxxx"."""
    text_bytes: int = 0
    """Bytes of UTF-8 text in the accepted documents."""
    begin: int = 0
    """First byte (or row) of the part that was read."""
    blank_lines: int = 0
    lone_surrogates: int = 0
    """Surrogate escapes without a partner, each replaced by U+FFFD."""
    specials_in_text: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Records that were skipped, by kind."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and checksum of one output file."""

    bytes: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Which part of the inputs this corpus holds."""

    index: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of PREFIX.json. The files count only once it is there."""

    builder: str
    command: str
    tokenizer: TokenizerRecord
    appended_eod: int | None
    dtype: str
    documents: int
    empty_documents: int
    sequences: int
    tokens: int
    specials_in_text: int
    sources: tuple[SourceRecord, ...]
    files: dict[str, FileRecord]
    key: str | None = None
    level: str = "document"
    shard: ShardRecord | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting of the build that has a say in the ids."""

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
        return json.dumps(content, indent=1) + "\n"


class _Fields:
    """Typed access to a decoded JSON object; every error names the file and the field."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, dict):
            raise DataError(f"{where}: expected an object, found {type(content).__name__}; rebuild the corpus")
        self.content: dict[str, Any] = content
        self.where = where

    def wrong(self, name: str, expected: str) -> DataError:
        found = repr(self.content.get(name, "nothing"))[:80]
        return DataError(f"{self.where}: {name} must be {expected}, found {found}; rebuild the corpus")

    def text(self, name: str) -> str:
        value = self.content.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = self.content.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAXIMUM_SIZE:
            raise self.wrong(name, "a count from 0 to 2^63 - 1")
        return value

    def optional(self, name: str, read: Callable[[str], Value]) -> Value | None:
        return None if self.content.get(name) is None else read(name)

    def objects(self, name: str) -> list[_Fields]:
        value = self.content.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return [_Fields(item, f"{self.where}: {name}[{i}]") for i, item in enumerate(value)]

    def object(self, name: str) -> _Fields:
        return _Fields(self.content.get(name), f"{self.where}: {name}")

    def counts(self, name: str) -> dict[str, int]:
        fields = _Fields(self.content.get(name, {}), f"{self.where}: {name}")
        return {key: fields.count(key) for key in fields.content}


def _tokenizer(fields: _Fields) -> TokenizerRecord:
    return TokenizerRecord(
        sha256=fields.text("sha256"), vocabulary=fields.count("vocabulary"), special_ids=fields.counts("special_ids")
    )


def _source(fields: _Fields) -> SourceRecord:
    return SourceRecord(
        path=fields.text("path"),
        format=fields.text("format"),
        checksum=fields.text("checksum"),
        rejected=fields.counts("rejected"),
        bytes=fields.count("bytes"),
        documents=fields.count("documents"),
        empty_documents=fields.count("empty_documents"),
        tokens=fields.count("tokens"),
        text_bytes=fields.count("text_bytes", 0),
        begin=fields.count("begin", 0),
        blank_lines=fields.count("blank_lines", 0),
        lone_surrogates=fields.count("lone_surrogates", 0),
        specials_in_text=fields.count("specials_in_text", 0),
    )


def _files(fields: _Fields) -> dict[str, FileRecord]:
    records = {}
    for name in fields.content:
        entry = fields.object(name)
        records[name] = FileRecord(bytes=entry.count("bytes"), checksum=entry.text("checksum"))
    for name in (".bin", ".idx"):
        if name not in records:
            raise fields.wrong(name, "there")
    return records


def _shard(fields: _Fields) -> ShardRecord:
    shard = ShardRecord(index=fields.count("index"), count=fields.count("count"))
    if shard.index >= shard.count:
        raise fields.wrong("index", "below count")
    return shard


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """The manifest in ``text``. Raises DataError, naming ``where``, when it is not a manifest or was altered."""
    try:
        fields = _Fields(json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON file ({error}); rebuild the corpus") from error
    if fields.content.get("format") != FORMAT or fields.content.get("version") != VERSION:
        raise DataError(f"{where}: not the manifest of a corpus (format {FORMAT!r}, version {VERSION})")
    dtype = fields.text("dtype")
    if dtype not in DTYPES:
        raise fields.wrong("dtype", "uint16 or int32")
    settings = fields.content.get("settings", {})
    manifest = Manifest(
        builder=fields.text("builder"),
        command=fields.text("command"),
        tokenizer=_tokenizer(fields.object("tokenizer")),
        appended_eod=fields.optional("appended_eod", fields.count),
        dtype=dtype,
        documents=fields.count("documents"),
        empty_documents=fields.count("empty_documents"),
        sequences=fields.count("sequences"),
        tokens=fields.count("tokens"),
        specials_in_text=fields.count("specials_in_text"),
        sources=tuple(_source(item) for item in fields.objects("sources")),
        files=_files(fields.object("files")),
        key=fields.optional("key", fields.text),
        level=fields.text("level"),
        shard=fields.optional("shard", lambda name: _shard(fields.object(name))),
        settings=settings if isinstance(settings, dict) else {},
    )
    if fields.text("fingerprint") != manifest.fingerprint:
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
