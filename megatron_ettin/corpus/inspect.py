"""What a corpus holds, for people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.corpus.reader import Corpus
from megatron_ettin.corpus.together import described
from megatron_ettin.progress import format_count
from megatron_ettin.tokenizer.tokenizer import Tokenizer

PERCENTILES = (0, 1, 10, 25, 50, 75, 90, 99, 100)
SAMPLE = 10_000_000
"""Lengths of at most this many documents are read for percentiles, in evenly spread stretches."""
STRETCHES = 1_000
SHOWN_SOURCES = 20
SHOWN_PARTS = 3


def length_sample(corpus: Corpus, limit: int = SAMPLE) -> NDArray[np.int32]:
    """Document lengths: all of them, or evenly spread stretches of a large corpus. O(limit)."""
    if corpus.documents <= limit:
        return corpus.lengths(0, corpus.documents)
    stretch = limit // STRETCHES
    starts = [(corpus.documents - stretch) * i // (STRETCHES - 1) for i in range(STRETCHES)]
    return np.concatenate([corpus.lengths(start, start + stretch) for start in starts])


def corpus_summary(corpus: Corpus) -> str:
    """Counts, lengths, bytes per token and sources."""
    manifest = described(corpus)
    lines = [
        f"{corpus.prefix}",
        f"  documents    {manifest.documents:,} ({manifest.empty_documents:,} empty), {manifest.sequences:,} sequences",
        f"  tokens       {manifest.tokens:,} ({manifest.dtype}), eod {manifest.appended_eod}",
        f"  tokenizer    {manifest.tokenizer.vocabulary:,} ids, sha256 {manifest.tokenizer.sha256[:16]}",
        f"  fingerprint  {manifest.fingerprint[:16]}",
        f"  built by     {manifest.builder}: {manifest.command}",
    ]
    if manifest.parts:
        names = [part.prefix for part in manifest.parts]
        shown = ", ".join(names[:SHOWN_PARTS]) + (f", ... {names[-1]}" if len(names) > SHOWN_PARTS else "")
        lines.append(f"  joined from  {len(names):,} corpora, read in place: {shown}")
    if manifest.tokens and manifest.text_bytes:
        lines.append(
            f"  text         {manifest.text_bytes:,} bytes, {manifest.text_bytes / manifest.tokens:.3f} per token"
        )
    if manifest.specials_in_text:
        lines.append(f"  special tokens in text: {manifest.specials_in_text:,}")
    lines += [f"  rejected     {kind}: {count:,}" for kind, count in manifest.rejected.items()]
    lengths = length_sample(corpus)
    if len(lengths):
        note = "" if len(lengths) == corpus.documents else f" (of {len(lengths):,} documents)"
        values = np.percentile(lengths, PERCENTILES)
        cells = "  ".join(f"p{name}={int(value):,}" for name, value in zip(PERCENTILES, values, strict=True))
        lines.append(f"  lengths{note}: mean={lengths.mean():,.1f}  {cells}")
    lines += [
        f"  {source.path}: {format_count(source.bytes, 'B')}, {source.documents:,} documents, {source.tokens:,} tokens"
        for source in manifest.sources[:SHOWN_SOURCES]
    ]
    if len(manifest.sources) > SHOWN_SOURCES:
        lines.append(f"  ... and {len(manifest.sources) - SHOWN_SOURCES:,} more sources")
    return "\n".join(lines)


def document_text(corpus: Corpus, number: int) -> str:
    """The text of one document, decoded by the tokenizer beside the corpus. Raises IndexError or DataError."""
    ids = corpus.document(number)
    tokenizer = Tokenizer.from_file(corpus.tokenizer_json, engine="huggingface")
    return tokenizer.decode(ids)
