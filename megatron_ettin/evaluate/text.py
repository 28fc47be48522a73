"""The text of an evaluation: its pieces, with what was masked in them, its bytes and its unigram entropy."""

# T tokens of a piece, L labels or tokens, V vocabulary

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.batch import Batch
from megatron_ettin.tokenizer.token_text import token_texts


@dataclass(frozen=True, kw_only=True)
class MaskedPiece:
    """One piece of text as an encoder meets it: [CLS] + text + [SEP], some tokens corrupted."""

    ids_T: NDArray[np.int64]
    """The true ids."""
    corrupted_T: NDArray[np.int64]
    """What the encoder reads."""
    positions_L: NDArray[np.int64]
    """The chosen tokens, indices into ids_T."""


@dataclass(frozen=True, kw_only=True)
class PlainPiece:
    """One piece of text as a decoder meets it."""

    ids_T: NDArray[np.int64]
    """[CLS] + text, and [SEP] where the document ends."""


def segments(batch: Batch) -> Iterable[tuple[int, int, NDArray[np.int64]]]:
    """(start, stop, labels) of every segment that has labels; labels are indices into the batch's label arrays."""
    label_starts = np.searchsorted(batch.label_positions_L, batch.cu_seqlens_S)
    for start, stop, first, last in zip(
        batch.cu_seqlens_S[:-1], batch.cu_seqlens_S[1:], label_starts[:-1], label_starts[1:], strict=True
    ):
        if last > first:
            yield int(start), int(stop), np.arange(first, last)


def masked_pieces(batches: Iterable[Batch]) -> list[MaskedPiece]:
    """The pieces of batches made for the mlm objective, with the true ids put back."""
    pieces = []
    for batch in batches:
        stream = batch.input_ids_BT.reshape(-1).astype(np.int64)
        for start, stop, labels in segments(batch):
            positions = batch.label_positions_L[labels].astype(np.int64) - start
            ids = stream[start:stop].copy()
            ids[positions] = batch.label_ids_L[labels]
            pieces.append(MaskedPiece(ids_T=ids, corrupted_T=stream[start:stop], positions_L=positions))
    return pieces


def plain_pieces(batches: Iterable[Batch]) -> list[PlainPiece]:
    """The pieces of batches made for the clm objective; what follows the last label is cut off."""
    pieces = []
    for batch in batches:
        stream = batch.input_ids_BT.reshape(-1).astype(np.int64)
        for start, _, labels in segments(batch):
            last = int(batch.label_positions_L[labels[-1]])
            ids = np.append(stream[start : last + 1], batch.label_ids_L[labels[-1]])
            pieces.append(PlainPiece(ids_T=ids))
    return pieces


def unigram_entropy(ids_L: NDArray[np.int64]) -> float:
    """Entropy in nats a token of the text's own token frequencies.

    No model that ignores context can be better on this text, not even one that has counted it.
    """
    counts = np.unique(ids_L, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def token_bytes(tokenizer: Mapping[str, Any]) -> NDArray[np.int64]:
    """UTF-8 bytes of text that each id of a tokenizer.json stands for, shape [V]; special tokens stand for none."""
    texts = token_texts(tokenizer)
    lengths_V = np.zeros(1 + max(texts), dtype=np.int64)
    lengths_V[list(texts)] = [len(text) for text in texts.values()]
    return lengths_V
