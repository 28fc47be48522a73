"""Training of a byte-level BPE tokenizer with the special tokens of Ettin, by the `tokenizers` library."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from megatron_ettin.data.inputs import find_inputs
from megatron_ettin.data.tokenizer import SPECIAL_NAMES
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.publish import publish

SMALLEST_VOCABULARY = 256 + len(SPECIAL_NAMES)
"""Every byte needs a token."""


def special_tokens() -> list[AddedToken]:
    """The special tokens in the order of their ids; [MASK] takes the white space on its left with it."""
    return [AddedToken(name, lstrip=name == "[MASK]", normalized=False, special=True) for name in SPECIAL_NAMES]


def empty_tokenizer() -> Tokenizer:
    """A tokenizer without vocabulary: NFC, the GPT-2 split, byte-level BPE, and a template [CLS] text [SEP]."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> Tokenizer:
    """Learn merges from ``texts`` until the vocabulary, special tokens included, has ``vocabulary_size`` tokens.

    Raises ConfigError when that is too small. Where the texts are too few the vocabulary stays smaller.
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise ConfigError(f"vocabulary={vocabulary_size} is too small; every byte needs a token: {SMALLEST_VOCABULARY}")
    tokenizer = empty_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special_tokens(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Publish ``folder`` with tokenizer.json and what transformers needs beside it. Raises ConfigError if it exists."""
    names = {
        "unk": "[UNK]",
        "cls": "[CLS]",
        "sep": "[SEP]",
        "pad": "[PAD]",
        "mask": "[MASK]",
        "bos": "[CLS]",
        "eos": "[SEP]",
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    try:
        with publish(folder) as staging:
            tokenizer.save(str(staging / "tokenizer.json"))
            tokens = {f"{role}_token": name for role, name in names.items()}
            (staging / "tokenizer_config.json").write_text(json.dumps(settings | tokens, indent=2) + "\n")
            (staging / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n")
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists already; choose another folder") from error


def text_files(inputs: Sequence[str]) -> list[Path]:
    """Files, globs and folders as a list of files in a stable order. Raises DataError for one that is not text."""
    files = find_inputs(inputs).files
    for path, format, _ in files:
        if format not in ("jsonl", "txt"):
            raise DataError(f"{path}: a tokenizer is trained on jsonl and txt files, not on {format}; convert it first")
    return [path for path, _, _ in files]


def read_texts(paths: Sequence[Path], key: str, limit: int) -> Iterator[str]:
    """Texts of .jsonl, .jsonl.gz, .jsonl.zst (member ``key`` of each line) and .txt files, up to ``limit`` characters.

    Raises DataError naming file and line for anything that cannot be read.
    """
    left = limit
    for path in paths:
        for text in _texts_of(path, key):
            if left <= 0:
                return
            yield text[:left]
            left -= len(text)


def _texts_of(path: Path, key: str) -> Iterator[str]:
    number = 0
    try:
        with _open(path) as stream:
            if not _is_jsonl(path):
                yield stream.read()
                return
            for line in stream:
                number += 1
                if line.strip():
                    yield _text_of(json.loads(line), key)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        place = (
            f"{path}, line {number + 1 if isinstance(error, UnicodeDecodeError) else number}" if number else str(path)
        )
        raise DataError(f"{place}: {type(error).__name__}: {error}") from error


def _text_of(record: dict[str, object], key: str) -> str:
    text = record[key]
    if not isinstance(text, str):
        raise TypeError(f"the value of {key!r} is not a string")
    return text.encode("utf-8", "replace").decode()


def _is_jsonl(path: Path) -> bool:
    return any(suffix in (".jsonl", ".ndjson", ".json") for suffix in path.suffixes)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[io.TextIOBase]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield stream
    elif path.suffix in (".zst", ".zstd"):
        import zstandard

        with zstandard.open(path, "rt", encoding="utf-8") as stream:
            yield stream
    else:
        with open(path, encoding="utf-8", newline="") as stream:
            yield stream
