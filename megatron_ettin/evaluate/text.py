"""What the text alone allows: its unigram entropy, and the bytes that its tokens stand for."""

# V vocabulary, L tokens

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def unigram_entropy(ids_L: NDArray[np.int64]) -> float:
    """Entropy in nats a token of the text's own token frequencies.

    No model that ignores context can be better on this text, not even one that has counted it.
    """
    counts = np.unique(ids_L, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def token_bytes(tokenizer: Mapping[str, Any]) -> NDArray[np.int64]:
    """UTF-8 bytes of each id of a byte-level tokenizer.json, shape [V]; special tokens stand for none."""
    added = tokenizer.get("added_tokens", [])
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    size = 1 + max([*vocabulary.values(), *(token["id"] for token in added)])
    lengths_V = np.zeros(size, dtype=np.int64)
    for text, i in vocabulary.items():
        lengths_V[i] = len(text)  # the byte-level alphabet has one letter a byte
    for token in added:
        lengths_V[token["id"]] = 0 if token["special"] else len(token["content"].encode())
    return lengths_V
