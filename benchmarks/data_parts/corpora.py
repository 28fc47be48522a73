"""Corpora for measurements: a real index of web-like lengths over a .bin that is a hole, or over random ids."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from megatron_ettin.corpus.format import hash_path
from megatron_ettin.corpus.manifest import FileChecksum, Manifest, TokenizerIdentity

MEAN, SIGMA = 997, 1.0
"""Mean and log-scale deviation of log-normal document lengths, as of web text."""
VOCABULARY = 50_368
SPECIAL_IDS = {"<|endoftext|>": 50279, "[UNK]": 50280, "[CLS]": 50281, "[SEP]": 50282, "[PAD]": 50283, "[MASK]": 50284}
CHUNK = 4_000_000


def web_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Document lengths in tokens, int32."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, count), 1).astype(np.int32)


def write_hollow_corpus(prefix: Path, documents: int) -> Path:
    """A corpus of any size whose index and text hashes are real and whose text is a hole of zeros."""
    tokens = 0
    with open(f"{prefix}.lengths", "wb") as lengths, open(f"{prefix}.pointers", "wb") as pointers:
        for number, first in enumerate(range(0, documents, CHUNK)):
            part = web_lengths(min(CHUNK, documents - first), seed=number)
            ends = tokens + np.cumsum(part, dtype=np.int64)
            lengths.write(part.data)
            pointers.write((2 * (ends - part)).data)
            tokens = int(ends[-1])
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1)
    with open(f"{prefix}.idx", "wb") as index:
        index.write(header)
        for name in ("lengths", "pointers"):
            part_path = Path(f"{prefix}.{name}")
            with part_path.open("rb") as part_file:
                while content := part_file.read(1 << 24):
                    index.write(content)
            part_path.unlink()
        for first in range(0, documents + 1, CHUNK):
            index.write(np.arange(first, min(first + CHUNK, documents + 1), dtype=np.int64).data)
    with open(f"{prefix}.bin", "wb") as text:
        text.truncate(2 * tokens)
    manifest = write_manifest(prefix, documents, tokens)
    rng = np.random.default_rng(1)
    with hash_path(prefix, manifest.fingerprint).open("wb") as hashes:
        for first in range(0, documents, CHUNK):
            hashes.write(rng.integers(0, 2**32, min(CHUNK, documents - first), dtype=np.uint32).data)
    return prefix


def write_random_corpus(prefix: Path, documents: int) -> Path:
    """A corpus of random ids."""
    lengths = web_lengths(documents)
    tokens = int(lengths.sum(dtype=np.int64))
    ids = np.random.default_rng(2).integers(300, 50_000, tokens, dtype=np.uint16)
    pointers = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)[:-1])) * 2
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1)
    bounds = np.arange(documents + 1, dtype=np.int64)
    Path(f"{prefix}.idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + bounds.tobytes())
    Path(f"{prefix}.bin").write_bytes(ids.tobytes())
    write_manifest(prefix, documents, tokens)
    return prefix


def write_manifest(prefix: Path, documents: int, tokens: int) -> Manifest:
    """The manifest of such a corpus."""
    sizes = {suffix: Path(f"{prefix}{suffix}").stat().st_size for suffix in (".bin", ".idx")}
    manifest = Manifest(
        builder="benchmark",
        command="",
        tokenizer=TokenizerIdentity(sha256="0" * 64, vocabulary=VOCABULARY, special_ids=SPECIAL_IDS),
        appended_eod=None,
        dtype="uint16",
        documents=documents,
        empty_documents=0,
        sequences=documents,
        tokens=tokens,
        specials_in_text=0,
        sources=(),
        files={suffix: FileChecksum(bytes=size, checksum=f"crc32c:{0:08x}") for suffix, size in sizes.items()},
    )
    Path(f"{prefix}.json").write_text(manifest.to_json())
    return manifest
