"""A tokenizer with tokens of the user's own, in slots that its makers left unused or behind its last id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.regular_files import read_regular
from megatron_ettin.tokenizer.identity import vocabulary_of

UNUSED = re.compile(r"(\[unused\d+\]|<unused\d+>)")
"""A token that stands in a vocabulary for one that is to come."""


def read_tokens(path: Path) -> list[str]:
    """One token a line, exactly as it is written, spaces too. Raises DataError naming the line."""
    try:
        lines = read_regular(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no list of tokens: {error}; give UTF-8 text, one token a line") from error
    met: set[str] = set()
    for number, token in enumerate(lines, start=1):
        if not token or token in met:
            what = f"repeats {token!r}" if token else "is empty"
            raise DataError(f"{path}, line {number}: {what}; give each token once, one a line")
        met.add(token)
    if not lines:
        raise DataError(f"{path} holds no tokens; give one a line")
    return lines


def with_tokens(content: Mapping[str, Any], tokens: Sequence[str], where: str, *, unused: bool) -> dict[str, Any]:
    """The content of a tokenizer.json with further tokens, which are found anywhere in a text before all others.

    ``unused``: they take the ids of ``[unusedN]`` tokens, lowest first, before they get new ones. Raises DataError for
    a token that is there already.
    """
    ids = vocabulary_of(content)
    known = [token for token in tokens if token in ids]
    if known:
        raise DataError(f"{where} has {known[0]!r} already, and {len(known) - 1} more of the tokens; leave them out")
    slots = sorted((number, token) for token, number in ids.items() if unused and UNUSED.fullmatch(token))
    behind = range(max(ids.values()) + 1, max(ids.values()) + 1 + len(tokens))
    numbers = dict(zip(tokens, [*(number for number, _ in slots), *behind], strict=False))
    renamed = {old: new for (_, old), new in zip(slots, tokens, strict=False)}
    model, vocabulary = content["model"], content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        model = model | {"vocab": {renamed.get(token, token): number for token, number in vocabulary.items()}}
    else:
        model = model | {"vocab": [[renamed.get(piece, piece), score] for piece, score in vocabulary]}
    others = [token for token in content.get("added_tokens") or [] if token["content"] not in renamed]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    added = [*others, *({"id": number, "content": token, **flags} for token, number in numbers.items())]
    return {**content, "model": model, "added_tokens": sorted(added, key=lambda token: int(token["id"]))}
