"""Which token of one tokenizer is which of another, and of which pieces the others consist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.identity import vocabulary_of
from megatron_ettin.tokenizer.token_text import Pieces, token_texts


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a tokenizer.json."""

    name: str
    """For messages."""
    content: Mapping[str, Any]
    roles: Mapping[str, int]
    """Role, called by Ettin's token for it -> id."""

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Id -> token, as the file writes it."""
        return {number: token for token, number in vocabulary_of(self.content).items()}

    @cached_property
    def texts(self) -> dict[int, bytes]:
        """Id -> the bytes that a token stands for; none for special tokens."""
        return token_texts(self.content)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokens) + 1


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Where the rows of a new vocabulary come from."""

    size: int
    """Rows of the new vocabulary; an id without a token has one too."""
    unchanged: Mapping[int, int]
    """New id -> old id of the same text, or of the same role."""
    pieces: Mapping[int, list[int]]
    """New id -> the old ids that make up its text, for the other tokens; empty where the old tokenizer has none."""
    dropped: frozenset[int]
    """Old ids that no new token takes."""


def match(old: Vocabulary, new: Vocabulary) -> Matches:
    """Match tokens by role, special ones by name, all others by the bytes that they stand for.

    Raises DataError when no token stands for the same bytes: nothing that the model has learned would be left.
    """
    by_role = {number: old.roles[role] for role, number in new.roles.items() if role in old.roles}
    named = {token: number for number, token in old.tokens.items() if not old.texts[number]}
    by_text: dict[bytes, list[int]] = {}
    for number, text in sorted(old.texts.items()):
        if text:
            by_text.setdefault(text, []).append(number)
    unchanged, others, shared = {}, {}, 0
    for number, token in sorted(new.tokens.items()):
        text = new.texts[number]
        if number in by_role:
            unchanged[number] = by_role[number]
        elif not text and token in named:
            unchanged[number] = named[token]
        elif text in by_text:
            alike = by_text[text]  # an added token may stand for the same text as another one
            unchanged[number] = min(alike, key=lambda i: (old.tokens[i] != token, i != number, i))
            shared += 1
        else:
            others[number] = text or token.encode()
    if not shared:
        raise DataError(
            f"{new.name} shares no token with {old.name}: nothing of what the model knows of its tokens can be kept; "
            "pretrain a model with this tokenizer"
        )
    pieces = dict(zip(others, Pieces(old.content).of(list(others.values())), strict=True))
    dropped = frozenset(old.tokens) - frozenset(unchanged.values())
    return Matches(size=new.size, unchanged=unchanged, pieces=pieces, dropped=dropped)
