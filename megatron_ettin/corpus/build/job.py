"""What a corpus build is asked for, and the same with every input resolved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from megatron_ettin.corpus.build.staging import staging_folder
from megatron_ettin.corpus.format import corpus_prefix
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.machine import cores
from megatron_ettin.sources.cuts import shard_of
from megatron_ettin.sources.files import FORMAT_NAMES, Source, find_inputs, make_sources, require_kind
from megatron_ettin.sources.remote.address import redacted
from megatron_ettin.sources.remote.staging import staged_path
from megatron_ettin.sources.tables import PACKED_INSIDE
from megatron_ettin.tokenizer.special_tokens import CLS, END_OF_TEXT, SEP
from megatron_ettin.tokenizer.tokenizer import Tokenizer

MAXIMUM_DOCUMENT_BYTES = 256 << 20
MAXIMUM_STAGED_BYTES = 32 << 30
LARGEST_DOCUMENT_BYTES = 512 << 20
"""Above this the ids of one document might not fit the int32 lengths of an index."""
CONTENT_FIELDS = (
    "keys", "append_eod", "engine", "specials_in_text", "input_format", "text_separator", "split_sentences",
    "language", "keep_newlines", "partitions", "strip_template_specials", "on_error", "maximum_document_bytes", "shard",
)  # fmt: skip
"""The options that have a say in the ids."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How text becomes a corpus. The defaults suit jsonl with a ``text`` key."""

    keys: tuple[str, ...] = ("text",)
    """Keys of a json line (columns of a table) that hold text; each gives a corpus of its own."""
    append_eod: bool = False
    """End every document that is not empty with the end-of-document id."""
    eod_token: str | None = None
    """Content of that token; by default the eos_token of the tokenizer's folder, else <|endoftext|>."""
    special: dict[str, str] = field(default_factory=dict)
    """Tokens of roles, such as ``{"mask": "<mask>"}``; else those of tokenizer_config.json, else Ettin's names."""
    engine: Literal["native", "huggingface"] = "native"
    """Who encodes: this package, or `tokenizers` itself (any tokenizer, about a hundred times slower)."""
    specials_in_text: Literal["special", "split", "reject"] = "special"
    """A special token's string inside a text becomes its id, is encoded as plain text, or rejects the document."""
    input_format: Literal["auto", "jsonl", "txt", "csv", "tsv", "parquet", "arrow", "mds"] = "auto"
    """Format of all inputs; auto goes by the names."""
    text_separator: str | None = None
    """Cut text files into documents at this string; by default a file is one document."""
    split_sentences: bool = False
    """Store each sentence as a sequence of its own, found by nltk's punkt as Megatron-LM does."""
    language: str = "english"
    """Language of the sentence splitter."""
    keep_newlines: bool = False
    """Keep the newlines between sentences when splitting."""
    maximum_staged_bytes: int = MAXIMUM_STAGED_BYTES
    """Disk for files that lie elsewhere, fetched ahead of the one that is read; a larger file is staged alone."""
    partitions: int = 1
    """Order documents as Megatron-LM does with this many partitions: 0, n, 2n, ..., then 1, n + 1, ..."""
    strip_template_specials: bool = False
    """Remove [CLS] and [SEP] around documents that come as ids."""
    on_error: Literal["stop", "skip"] = "stop"
    """A bad record stops the build, or is skipped, counted and listed in PREFIX.rejects.jsonl."""
    maximum_document_bytes: int = MAXIMUM_DOCUMENT_BYTES
    """Largest record: a line, a row's text, or a text file."""
    shard: tuple[int, int] | None = None
    """(i, n): build only part i of n, from 0, into PREFIX-i-of-n."""
    threads: int = 0
    """Worker threads; 0 takes every core this process may use. Never changes the result."""
    overwrite: bool = False
    """Replace a corpus that is there."""
    restart: bool = False
    """Drop an unfinished build instead of resuming it."""
    megatron_names: bool = False
    """Also give the files the names Megatron-LM's script uses: PREFIX_KEY_document."""
    log_interval: int | None = None
    """Print a line after this many documents, also where standard error is no terminal."""

    def __post_init__(self) -> None:
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise ConfigError(f"json keys {list(self.keys)}: name at least one, each once")
        if not 1 <= self.maximum_document_bytes <= LARGEST_DOCUMENT_BYTES:
            raise ConfigError(
                f"maximum document of {self.maximum_document_bytes} bytes: choose 1 to {LARGEST_DOCUMENT_BYTES}"
            )
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise ConfigError(f"shard {self.shard[0]}/{self.shard[1]}: shards are numbered 0 to n - 1")
        if self.maximum_staged_bytes < 1:
            raise ConfigError(f"staged bytes of {self.maximum_staged_bytes}: must be at least 1")
        if self.threads < 0:
            raise ConfigError(f"workers={self.threads} must not be negative; 0 takes every core")
        if self.partitions < 1:
            raise ConfigError(f"partitions={self.partitions} must be at least 1")
        if self.text_separator == "":
            raise ConfigError("the text separator is empty; leave it out to make a file one document")
        if self.keep_newlines and not self.split_sentences:
            raise ConfigError("keep_newlines has an effect only with split_sentences")
        if self.partitions > 1 and self.shard is not None:
            raise ConfigError("partitions give an order of all documents and do not go with a shard; choose one")

    @property
    def level(self) -> str:
        """What a sequence is, in Megatron-LM's file names."""
        return "sentence" if self.split_sentences else "document"

    @property
    def worker_threads(self) -> int:
        """Number of threads that encode."""
        return self.threads or cores()

    def content_settings(self) -> dict[str, Any]:
        """The settings that have a say in the ids, as JSON values."""
        settings = {name: getattr(self, name) for name in CONTENT_FIELDS}
        return settings | {
            "keys": list(self.keys),
            "language": self.language if self.split_sentences else None,
            "shard": list(self.shard) if self.shard else None,
        }


@dataclass(frozen=True, kw_only=True)
class Job:
    """A build with everything resolved."""

    prefix: Path
    base: Path
    """The prefix that was asked for; that of a shard has its number behind it."""
    targets: tuple[Path, ...]
    """Prefix of each output: PREFIX for one key; PREFIX_KEY_document, as in Megatron-LM, for several."""
    sources: tuple[Source, ...]
    tokenizer: Tokenizer
    eod: int | None
    """Id to append to documents."""
    options: BuildOptions
    command: str
    left_out: dict[str, tuple[str, ...]]
    """By reason: what folders and globs hold and is not read."""
    uncut: tuple[str, ...]
    """Files in this shard that hold more than two shards should, and can be cut nowhere."""
    inputs: str
    """A hash of the names and sizes of all input files, those of other shards included."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the ids: a resumed build must have the same."""
        special_ids = self.tokenizer.special_ids
        ends = {name: special_ids.get(name, -1) for name in (CLS, SEP)}
        usual = all(self.tokenizer.find_token(name) == id for name, id in ends.items())
        return {
            **({} if usual or not self.options.strip_template_specials else {"template": ends}),
            **self.options.content_settings(),
            "tokenizer": self.tokenizer.fingerprint,
            "eod": self.eod,
            "sources": [
                [s.name, s.kind, s.size, s.remote.etag if s.remote else s.modified, s.begin, s.end]
                for s in self.sources
            ],
        }

    @property
    def identity_hash(self) -> str:
        """A short form of the identity, by which a manifest is recognised as that of this build."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def manifest_settings(self) -> dict[str, Any]:
        """What a manifest says of this build: settings, the hash of its identity, for a shard that of all inputs."""
        inputs = {} if self.options.shard is None else {"inputs": self.inputs}
        return {**self.options.content_settings(), "plan": self.identity_hash, **inputs}

    @property
    def total_bytes(self) -> int:
        """Bytes of all sources."""
        return sum(source.bytes for source in self.sources)


def megatron_prefix(prefix: Path, key: str, level: str) -> Path:
    """The prefix that Megatron-LM's script gives to one key's output."""
    return prefix.with_name(f"{prefix.name}_{key}_{level}")


def shard_prefix(base: Path, index: int, count: int) -> Path:
    """The prefix of one shard of a build."""
    return base.with_name(f"{base.name}-{index:05d}-of-{count:05d}")


def make_job(
    inputs: Sequence[str | Path], prefix: str | Path, tokenizer: str | Path, options: BuildOptions, command: str
) -> Job:
    """Resolve inputs, tokenizer and names. Raises DataError or ConfigError."""
    found = find_inputs(inputs, options.input_format, remedy=f"say --input-format {'|'.join(FORMAT_NAMES)}")
    sources = make_sources(found.files)
    listed = json.dumps([[Path(source.name).name, source.size] for source in sources])
    inputs = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    base = named = corpus_prefix(prefix)
    share = sum(source.size for source in sources)
    if options.shard is not None:
        share //= options.shard[1]
        sources = shard_of(sources, *options.shard)
        named = shard_prefix(base, *options.shard)
    for source in sources:
        if source.format == "txt" and len(options.keys) > 1:
            raise ConfigError(f"{source.name}: a text file has no keys, but {list(options.keys)} are asked for")
        if source.compression and source.format in PACKED_INSIDE:
            raise DataError(f"{source.name}: {source.format} is compressed inside, not as a file; decompress it first")
        if source.remote is None:
            require_kind(source)
    return Job(
        prefix=named,
        base=base,
        sources=tuple(
            source if source.remote is None else replace(source, path=staged_path(source, staging_folder(named)))
            for source in sources
        ),
        options=options,
        command=redacted(command),
        left_out={reason: tuple(map(str, paths)) for reason, paths in found.left_out.items()},
        uncut=tuple(source.name for source in sources if source.bytes > 2 * share),
        inputs=inputs,
        **_resolved(named, tokenizer, options),
    )


def make_text_job(origin: str, prefix: str | Path, tokenizer: str | Path, options: BuildOptions, command: str) -> Job:
    """A job whose only source is no file but texts of a program, called ``origin``. Raises DataError or ConfigError."""
    base = named = corpus_prefix(prefix)
    if len(options.keys) > 1 or options.text_separator is not None or options.input_format != "auto":
        raise ConfigError("texts of a program have no keys, separator or format; leave these settings out")
    if options.shard is not None:
        named = shard_prefix(base, *options.shard)
    return Job(
        prefix=named,
        base=base,
        sources=(Source(path=Path(origin), format="texts", compression=None, size=0, modified=0, inode=0),),
        options=options,
        command=command,
        left_out={},
        uncut=(),
        inputs="",
        **_resolved(named, tokenizer, options),
    )


def _resolved(prefix: Path, tokenizer: str | Path, options: BuildOptions) -> dict[str, Any]:
    """The fields of a job that a tokenizer and the names of its outputs give."""
    loaded = Tokenizer.from_file(tokenizer, options.specials_in_text, options.engine, options.special)
    many = len(options.keys) > 1
    targets = (megatron_prefix(prefix, key, options.level) if many else prefix for key in options.keys)
    return {"tokenizer": loaded, "targets": tuple(targets), "eod": _find_eod(Path(tokenizer), loaded, options)}


def _find_eod(path: Path, tokenizer: Tokenizer, options: BuildOptions) -> int | None:
    """The id that ends documents: of the token asked for, else of the folder's eos_token, else of <|endoftext|>."""
    if not options.append_eod:
        return None
    name, config = options.eod_token, path / "tokenizer_config.json"
    if name is None and path.is_dir() and config.is_file():
        content = json.loads(config.read_bytes())
        token = content.get("eos_token") if isinstance(content, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        name = token if isinstance(token, str) else None
    name = name or END_OF_TEXT
    found = tokenizer.find_token(name)
    if found < 0:
        raise ConfigError(f"{path}: has no token {name!r} to end documents with; name one by --eod-token")
    return found
