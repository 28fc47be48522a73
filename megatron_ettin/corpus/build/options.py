"""The settings of a corpus build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from megatron_ettin.errors import ConfigError
from megatron_ettin.machine import cores

MAXIMUM_DOCUMENT_BYTES = 256 << 20
LARGEST_DOCUMENT_BYTES = 512 << 20
"""Above this the ids of one document might not fit the int32 lengths of an index."""
SMALL_BLOCK, LARGE_BLOCK, LARGE_INPUT = 2 << 20, 8 << 20, 64 << 30


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How text becomes a corpus. The defaults suit jsonl with a ``text`` key."""

    keys: tuple[str, ...] = ("text",)
    """Keys of a json line (columns of a table) that hold text; each gives a corpus of its own."""
    append_eod: bool = False
    """End every document that is not empty with the end-of-document id."""
    eod_token: str | None = None
    """Content of that token; by default the eos_token of the tokenizer's folder, else <|endoftext|>."""
    engine: Literal["native", "huggingface"] = "native"
    """Who encodes: this package, or `tokenizers` itself (any tokenizer, about a hundred times slower)."""
    specials_in_text: Literal["special", "split", "reject"] = "special"
    """A special token's string inside a text becomes its id, is encoded as plain text, or rejects the document."""
    input_format: Literal["auto", "jsonl", "txt", "parquet", "mds"] = "auto"
    """Format of all inputs; auto goes by the names."""
    text_separator: str | None = None
    """Cut text files into documents at this string; by default a file is one document."""
    split_sentences: bool = False
    """Store each sentence as a sequence of its own, found by nltk's punkt as Megatron-LM does."""
    language: str = "english"
    """Language of the sentence splitter."""
    keep_newlines: bool = False
    """Keep the newlines between sentences when splitting."""
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
        return {
            "keys": list(self.keys),
            "append_eod": self.append_eod,
            "engine": self.engine,
            "specials_in_text": self.specials_in_text,
            "input_format": self.input_format,
            "text_separator": self.text_separator,
            "split_sentences": self.split_sentences,
            "language": self.language if self.split_sentences else None,
            "keep_newlines": self.keep_newlines,
            "partitions": self.partitions,
            "strip_template_specials": self.strip_template_specials,
            "on_error": self.on_error,
            "maximum_document_bytes": self.maximum_document_bytes,
            "shard": list(self.shard) if self.shard else None,
        }


def block_bytes(total: int) -> int:
    """Size of the blocks that threads work on: larger for large inputs, to keep the journal small."""
    return SMALL_BLOCK if total < LARGE_INPUT else LARGE_BLOCK
