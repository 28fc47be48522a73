"""What the text alone allows: its unigram entropy, and the bytes that its tokens stand for."""

# V vocabulary, L tokens

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.tokenizer.identity import vocabulary_of


def unigram_entropy(ids_L: NDArray[np.int64]) -> float:
    """Entropy in nats a token of the text's own token frequencies.

    No model that ignores context can be better on this text, not even one that has counted it.
    """
    counts = np.unique(ids_L, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def token_bytes(tokenizer: Mapping[str, Any]) -> NDArray[np.int64]:
    """UTF-8 bytes of text that each id of a tokenizer.json stands for, shape [V]; special tokens stand for none."""
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
    ids = vocabulary_of(tokenizer)
    lengths_V = np.zeros(1 + max(ids.values()), dtype=np.int64)
    byte_level = '"ByteLevel"' in json.dumps(tokenizer.get("pre_tokenizer"))
    prefix = model.get("continuing_subword_prefix") or ""
    for text, i in ids.items():
        if byte_level:
            lengths_V[i] = len(text)  # the byte-level alphabet has one letter a byte
        elif re.fullmatch("<0x[0-9A-F]{2}>", text):
            lengths_V[i] = 1
        elif model.get("type") == "WordPiece":  # a word that begins has a space before it
            lengths_V[i] = len(text.removeprefix(prefix).encode()) + (not text.startswith(prefix))
        else:
            lengths_V[i] = len(text.replace("\u2581", " ").encode())
    for token in added:
        lengths_V[token["id"]] = 0 if token["special"] else len(token["content"].encode())
    return lengths_V
