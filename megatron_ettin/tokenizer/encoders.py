"""What the builder's threads call in Python: the huggingface engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]


def texts_of(content: bytes, ends: NDArray[np.uint64]) -> list[str]:
    """The texts that lie back to back in ``content``."""
    bounds = [0, *ends.tolist()]
    return [content[begin:end].decode() for begin, end in zip(bounds, bounds[1:], strict=False)]


class HuggingFaceBatches:
    """Encodes batches of texts with `tokenizers` itself, without template specials, truncation or padding."""

    def __init__(self, content: bytes, policy: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_buffer(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = policy == "split"
        added = self._tokenizer.get_added_tokens_decoder()
        special = [] if policy == "split" else [number for number, token in added.items() if token.special]
        self._special = np.array(special, np.uint32)

    def __call__(self, content: bytes, ends: NDArray[np.uint64]) -> Batch:
        """(ids, end of each text in ids, special tokens met in each text)."""
        encodings = self._tokenizer.encode_batch_fast(texts_of(content, ends), add_special_tokens=False)
        pieces = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        lengths = np.array([len(piece) for piece in pieces], np.uint64)
        specials = np.array([np.isin(piece, self._special).sum() for piece in pieces], np.uint64)
        ids = np.concatenate([np.zeros(0, np.uint32), *pieces])
        return ids, np.cumsum(lengths, dtype=np.uint64), specials
