"""What the tokens of a tokenizer.json stand for, as bytes of text, and which of its tokens make up other bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ettin.tokenizer.identity import vocabulary_of

BYTE = re.compile("<0x([0-9A-F]{2})>")
"""A token of a tokenizer with byte fallback that stands for one byte."""


def byte_letters(content: Mapping[str, Any]) -> dict[str, int]:
    """The letters of a byte-level tokenizer.json -> byte: printable ones stand for themselves, others from U+0100 on.

    None of a tokenizer whose tokens are not written in the letters of bytes.
    """
    if not any('"ByteLevel"' in json.dumps(content.get(part)) for part in ("pre_tokenizer", "normalizer")):
        return {}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_texts(content: Mapping[str, Any]) -> dict[int, bytes]:
    """Id -> the bytes that a token stands for, with the space in front that it has; special tokens stand for none."""
    model, letters = content["model"], byte_letters(content)
    prefix = model.get("continuing_subword_prefix") or ""
    texts: dict[int, bytes] = {}
    for token, number in vocabulary_of(content).items():
        if letters and all(letter in letters for letter in token):
            texts[number] = bytes(letters[letter] for letter in token)
        elif match := BYTE.fullmatch(token):
            texts[number] = bytes([int(match[1], 16)])
        elif model.get("type") == "WordPiece":  # a word that begins has a space before it
            begins = not token.startswith(prefix)
            texts[number] = (" " * begins + token.removeprefix(prefix)).encode()
        else:
            texts[number] = token.replace("\u2581", " ").encode()
    for token in content.get("added_tokens") or []:
        texts[token["id"]] = b"" if token["special"] else token["content"].encode()
    return texts


class Pieces:
    """A tokenizer that takes bytes: the text of a token, not that of a document.

    What it puts in front of a text is left out, special tokens are plain text, and bytes that are no UTF-8 go through
    its byte tokens.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        bare = {"post_processor": None, "truncation": None, "padding": None}
        parts = {part: without_prefix(content.get(part)) for part in ("normalizer", "pre_tokenizer")}
        self._tokenizer = Tokenizer.from_str(json.dumps({**content, **bare, **parts}))
        self._tokenizer.encode_special_tokens = True
        self._letter_of = {byte: letter for letter, byte in byte_letters(content).items()}
        vocabulary = vocabulary_of(content)
        self._fallback = {int(found[1], 16): i for token, i in vocabulary.items() if (found := BYTE.fullmatch(token))}
        self._unknown = vocabulary.get(unknown_token(content["model"]), -1)

    def of(self, texts: Sequence[bytes]) -> list[list[int]]:
        """The ids that make up each text, none for what the tokenizer has no token for."""
        found: list[list[int]] = [[] for _ in texts]
        whole: dict[int, str] = {}
        for place, text in enumerate(texts):
            try:
                whole[place] = text.decode()
            except UnicodeDecodeError:  # a part of a character
                if self._letter_of:
                    letters = "".join(self._letter_of[byte] for byte in text)
                    found[place] = [token.id for token in self._tokenizer.model.tokenize(letters)]
                else:
                    found[place] = [self._fallback[byte] for byte in text if byte in self._fallback]
        for place, encoding in zip(whole, self._tokenizer.encode_batch_fast(list(whole.values()))):  # noqa: B905
            found[place] = encoding.ids
        return [[number for number in ids if number != self._unknown] for ids in found]


def unknown_token(model: Mapping[str, Any]) -> str:
    """The token for what is in no vocabulary; empty where there is none."""
    if isinstance(model.get("unk_id"), int):
        return str(model["vocab"][model["unk_id"]][0])
    return str(model.get("unk_token") or "")


def without_prefix(part: Any) -> Any:  # noqa: ANN401 - JSON
    """A normalizer or pre-tokenizer that puts nothing in front of a text."""
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "Sequence":
        members = {name: part[name] for name in ("normalizers", "pretokenizers") if name in part}
        return part | {
            name: [without_prefix(member) for member in list_ if member.get("type") != "Prepend"]
            for name, list_ in members.items()
        }
    if kind == "Prepend":
        return None
    if kind == "ByteLevel":
        return part | {"add_prefix_space": False}
    if kind == "Metaspace":
        kept = {name: value for name, value in part.items() if name != "add_prefix_space"}
        return kept | {"prepend_scheme": "never"}
    return part
