"""A BPE tokenizer with fewer tokens: those that a text needs, and all that they are merged from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.identity import vocabulary_of
from megatron_ettin.tokenizer.token_text import unknown_token
from megatron_ettin.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXTS_AT_A_TIME = 1_000


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> NDArray[np.int64]:
    """How often each id occurs in some texts [V]."""
    import numpy as np

    counts = np.zeros(tokenizer.vocabulary_size, dtype=np.int64)
    left = iter(texts)
    while batch := list(islice(left, TEXTS_AT_A_TIME)):
        ids, _ = tokenizer.encode_batch(batch)
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def with_fewer_tokens(
    content: Mapping[str, Any], counts: NDArray[np.int64], most: int, where: str
) -> dict[str, Any]:
    """The content of a tokenizer.json with at most ``most`` tokens, the most frequent ones; 0: all that occur.

    Single letters, which are the bytes of a byte-level tokenizer, and added tokens stay. A token stays with the tokens
    that it is merged from, so that a text of tokens that stay is cut into the same ones. Ids are numbered anew in their
    order. Raises DataError for another model than BPE, or fewer tokens than have to stay.
    """
    model = content["model"]
    if not isinstance(model["vocab"], dict) or "merges" not in model:
        raise DataError(f"{where} is no BPE, and only a BPE can be trimmed by text; give a smaller one by --tokenizer")
    vocabulary: dict[str, int] = model["vocab"]
    added = content.get("added_tokens") or []
    kept = {token for token in vocabulary if len(token) == 1 or token == unknown_token(model)}
    kept |= {token["content"] for token in added}
    if most and most < len(kept):
        raise DataError(f"--keep {most}: {len(kept)} tokens of {where} have to stay, bytes and added ones; keep more")
    parts: dict[str, set[str]] = {}
    for merge in model["merges"]:
        first, second, made = _tokens_of(merge, model)
        parts.setdefault(made, set()).update((first, second))
    for token in sorted(vocabulary, key=lambda token: (-counts[vocabulary[token]], vocabulary[token])):
        if not counts[vocabulary[token]]:
            break
        needed = _with_ancestors(token, parts, kept)
        if not most or len(kept) + len(needed) <= most:
            kept |= needed
    # `tokenizers` numbers added tokens that are not in the model's vocabulary behind it, whatever a file says
    places = sorted(vocabulary_of(content).items(), key=lambda pair: (pair[0] not in vocabulary, pair[1]))
    numbers = {token: number for number, token in enumerate(token for token, _ in places if token in kept)}
    merges = [pair for pair in model["merges"] if kept.issuperset(_tokens_of(pair, model))]
    fewer = {**model, "vocab": {token: numbers[token] for token in vocabulary if token in kept}, "merges": merges}
    renumbered = [token | {"id": numbers[token["content"]]} for token in added]
    return {**content, "model": fewer, "added_tokens": renumbered, "post_processor": None}


def _tokens_of(merge: Any, model: Mapping[str, Any]) -> tuple[str, str, str]:  # noqa: ANN401 - JSON
    """The two tokens of a merge, which is written as a list or with a space in between, and what it makes."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _with_ancestors(token: str, parts: Mapping[str, set[str]], kept: set[str]) -> set[str]:
    """The token and all that it is made from, as far as they are not kept already.

    ``parts``: token -> all tokens that it is merged from in one step.
    """
    found, open_ = set(), [token]
    while open_:
        token = open_.pop()
        if token not in kept and token not in found:
            found.add(token)
            open_ += parts.get(token, ())
    return found
