"""A small writer of corpora, independent of the builder: ids in, .bin, .idx and manifest out."""

import hashlib
import struct
from pathlib import Path

import numpy as np

from megatron_ettin.corpus.checksum import file_checksum
from megatron_ettin.corpus.manifest import Manifest, TokenizerIdentity

SPECIAL_IDS = {"<|endoftext|>": 250, "[UNK]": 251, "[CLS]": 252, "[SEP]": 253, "[PAD]": 254, "[MASK]": 255}
VOCABULARY = 256


def write_corpus(
    prefix: Path,
    documents: list[list[list[int]] | list[int]],
    vocabulary: int = VOCABULARY,
    special_ids: dict[str, int] | None = None,
    tokenizer: str = "twin",
    eod: int | None = None,
    dtype: str = "uint16",
) -> Path:
    """Write documents, each a list of ids or a list of sentences of ids. Returns the prefix."""
    split = [[list(part) for part in sentences(document)] for document in documents]
    if eod is not None:
        for parts in split:
            if parts:
                parts[-1].append(eod)
    sequences = [part for parts in split for part in parts]
    flat = np.array([i for part in sequences for i in part], dtype)
    lengths = np.array([len(part) for part in sequences], "<i4")
    return write_arrays(
        prefix, flat, lengths, np.cumsum([0] + [len(parts) for parts in split]), vocabulary, special_ids, tokenizer, eod
    )


def sentences(document):
    """The sequences of a document: none when it is empty, one unless it is a list of lists."""
    if not document:
        return []
    return document if isinstance(document[0], (list, tuple)) else [document]


def write_arrays(prefix, flat, lengths, bounds, vocabulary=VOCABULARY, special_ids=None, tokenizer="twin", eod=None):
    """Write a corpus from all ids, the length of each sequence and the first sequence of each document."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    binary = flat.astype(f"<{flat.dtype.str[1:]}").tobytes()
    index = index_bytes(lengths, bounds, flat.dtype.itemsize)
    prefix.with_name(prefix.name + ".bin").write_bytes(binary)
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    manifest = Manifest(
        builder="twin",
        command="",
        tokenizer=TokenizerIdentity(
            sha256=hashlib.sha256(tokenizer.encode()).hexdigest(),
            vocabulary=vocabulary,
            special_ids=SPECIAL_IDS if special_ids is None else special_ids,
        ),
        appended_eod=eod,
        dtype=str(flat.dtype),
        documents=len(bounds) - 1,
        empty_documents=int(np.sum(np.diff(bounds) == 0)),
        sequences=len(lengths),
        tokens=len(flat),
        specials_in_text=0,
        sources=(),
        files={".bin": file_checksum(binary), ".idx": file_checksum(index)},
    )
    prefix.with_name(prefix.name + ".json").write_text(manifest.to_json())
    return prefix


def index_bytes(lengths, bounds, itemsize: int) -> bytes:
    """The content of an .idx file."""
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8 if itemsize == 2 else 4, len(lengths), len(bounds))
    pointers = np.concatenate(([0], np.cumsum(np.asarray(lengths, np.int64))[:-1])) * itemsize
    pointers = pointers[: len(lengths)].astype("<i8")
    return header + np.asarray(lengths, "<i4").tobytes() + pointers.tobytes() + np.asarray(bounds, "<i8").tobytes()


def random_documents(rng, count: int, mean: int = 60, longest: int = 2000, low: int = 0, high: int = 250):
    """Documents of log-normal length, some of them empty."""
    lengths = np.minimum(np.exp(rng.normal(np.log(mean), 1.0, count)).astype(int), longest)
    lengths[rng.random(count) < 0.02] = 0
    return [rng.integers(low, high, n).tolist() for n in lengths]
