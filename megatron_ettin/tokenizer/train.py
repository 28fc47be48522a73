"""Training of a byte-level BPE tokenizer with the special tokens of Ettin, by the `tokenizers` library."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TextIO

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.publish import publish
from megatron_ettin.sources.delimited import DELIMITERS, RecordPlaces, delimited_documents, whole_file
from megatron_ettin.sources.files import FORMAT_NAMES, Source, find_inputs, make_sources, require_kind
from megatron_ettin.sources.records import FIELD_COUNT, DocumentBatch
from megatron_ettin.sources.remote.staging import read_in_order
from megatron_ettin.sources.tables import table_documents
from megatron_ettin.tokenizer.special_tokens import CLS, MASK, ROLES, SEP, SPECIAL_TOKENS

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
"""Every byte needs a token."""


def make_tokenizer(inputs: Sequence[str], folder: Path, vocabulary_size: int, key: str, characters: int) -> int:
    """Learn a tokenizer from files, globs and folders, at most ``characters`` of them, and publish ``folder`` with it.

    Returns the number of its tokens. ``key`` names the member of a JSON line, or the column, with the text. Raises
    DataError for inputs that cannot be read, ConfigError for a vocabulary too small and a folder that exists.
    """
    sources = text_files(inputs)
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another folder")
    with read_in_order(sources, folder) as files:
        tokenizer = train_tokenizer(read_texts(files, key, characters), vocabulary_size)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    tokens = {f"{role}_token": ROLES[f"{role}_token"] for role in ("unk", "cls", "sep", "pad", "mask", "bos", "eos")}
    with publish(folder) as staging:
        tokenizer.save(str(staging / "tokenizer.json"))
        (staging / "tokenizer_config.json").write_text(json.dumps(settings | tokens, indent=2) + "\n")
        (staging / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n")
    return tokenizer.get_vocab_size()


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> Tokenizer:
    """Learn merges from ``texts`` until the vocabulary, special tokens included, has ``vocabulary_size`` tokens.

    NFC, the GPT-2 split, byte-level BPE, and a template [CLS] text [SEP]; [MASK] takes the white space on its left with
    it. Where the texts are too few the vocabulary stays smaller. Raises ConfigError when the size is too small and
    DataError when there is no text.
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocabulary={vocabulary_size} is too small: every byte needs a token; use {SMALLEST_VOCABULARY} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[
            AddedToken(name, lstrip=name == MASK, normalized=False, special=True) for name in SPECIAL_TOKENS
        ],
        show_progress=False,
    )
    some = next((text for text in texts if text), None)
    if some is None:
        raise DataError("no text in the input: every document is empty; give text to learn a tokenizer from")
    tokenizer.train_from_iterator(chain([some], texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (CLS, SEP)],
    )
    return tokenizer


def text_files(inputs: Sequence[str]) -> list[Source]:
    """Files, globs and folders as sources in a stable order; says what of them is left out.

    Raises DataError for a file that is not text.
    """
    found = find_inputs(inputs)
    for reason, paths in found.left_out.items():
        print(f"left out: {len(paths)} ({reason}), first {paths[0]}", file=sys.stderr)
    sources = make_sources(found.files)
    for source in sources:
        if source.remote is None:
            require_kind(source)
        if source.format == "mds":
            formats = ", ".join(name for name in FORMAT_NAMES if name != "mds")
            raise DataError(f"{source.name}: a tokenizer is trained on {formats} files, not on mds; convert it first")
    return sources


def read_texts(sources: Iterable[Source], key: str, limit: int) -> Iterator[str]:
    """Texts of jsonl (member ``key`` of each line), txt, and tables (column ``key``), up to ``limit`` characters.

    Raises DataError naming file and line for anything that cannot be read.
    """
    left = limit
    for source in sources:
        for text in _line_texts(source, key) if source.format in ("jsonl", "txt") else _column_texts(source, key):
            if left <= 0:
                return
            yield text[:left]
            left -= len(text)


def _column_texts(source: Source, key: str) -> Iterator[str]:
    batches: Iterator[DocumentBatch]
    if source.format in DELIMITERS:
        batches = delimited_documents(source, whole_file(source), [key])
    else:
        batches = table_documents(source, [key], 0)
    for batch in batches:
        if batch.ids:
            raise DataError(f"{source.path}: column {key!r} holds ids, not text; name another by --json-key")
        if batch.faults is not None and (ragged := (batch.faults == FIELD_COUNT).nonzero()[0]).size:
            line = RecordPlaces(source).line(batch.first + int(ragged[0]))
            raise DataError(f"{_place(source, line or 0)}: not as many fields as the header; correct the row")
        start = 0
        for end in batch.ends.tolist():
            yield bytes(batch.content[start:end]).decode("utf-8", "replace")
            start = end


def _line_texts(source: Source, key: str) -> Iterator[str]:
    number = 0
    try:
        with _open(source) as stream:
            if source.format == "txt":
                yield stream.read()
                return
            for line in stream:
                number += 1
                if line.strip():
                    record = json.loads(line)
                    text = record.get(key) if isinstance(record, dict) else None
                    if not isinstance(text, str):
                        keys = f" (keys: {', '.join(record)})" if isinstance(record, dict) else ""
                        raise ValueError(
                            f"no member {key!r} that is a string{keys}; name the one that holds the text by --json-key"
                        )
                    yield text.encode("utf-8", "replace").decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{_place(source, number + 1)}: not UTF-8 ({error.reason}); convert the file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{_place(source, number)}: no JSON ({error.msg}); correct or remove the line") from error
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{_place(source, number)}: {error}") from error


def _place(source: Source, line: int) -> str:
    return f"{source.path}, line {line}" if line and source.format != "txt" else str(source.path)


def _open(source: Source) -> TextIO:
    if source.compression == "gz":
        return gzip.open(source.path, "rt", encoding="utf-8")
    if source.compression == "zst":
        import zstandard

        stream: TextIO = zstandard.open(source.path, "rt", encoding="utf-8")
        return stream
    return open(source.path, encoding="utf-8", newline="")
