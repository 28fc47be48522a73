"""Encoders as generators (Samuel, 2024): the next token is read from the first of three masks behind the text.

    score of a continuation: for each of its tokens, [SEP] included,
        row = context + continuation so far + [MASK] [MASK] [MASK] [SEP];  add log p(token) at the first mask

Every state of a row depends on its last tokens, so that nothing but whole rows can be shared: rows that are equal over
all requests are computed once, in batches of like length.
"""

# V vocabulary, L wanted tokens

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.generative.engines import Engine, Ids, Told
from megatron_ettin.evaluate.scorer import passes

MASKS = 3
ADDED = MASKS + 1
"""Tokens of a row behind its text: the masks and [SEP]."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What is scored."""

    context: Ids
    """[CLS] + text, without [SEP]."""
    ids: Ids
    """The continuation's tokens and the closing [SEP]."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The outcome of one continuation."""

    log_probability: float
    """Sum over its tokens, nats."""
    greedy: bool
    """Whether each token was the model's first choice."""


@dataclass
class Rows:
    """The different rows of some continuations, and what is wanted of each."""

    owners: list[tuple[int, int]] = field(default_factory=list)
    """Row -> (continuation, tokens of it that precede the masks): how the row is built."""
    lengths: list[int] = field(default_factory=list)
    """Row -> tokens of its text."""
    wanted: list[dict[int, list[tuple[int, int]]]] = field(default_factory=list)
    """Row -> token -> (continuation, place in it) that ask for it."""
    asked: int = 0
    """Rows that one pass a token would take."""


def plan(continuations: Sequence[Continuation]) -> Rows:
    """The different rows of some continuations. Rows are compared by a digest of 16 bytes."""
    rows = Rows()
    known: dict[bytes, int] = {}
    for number, continuation in enumerate(continuations):
        digest = blake2b(np.ascontiguousarray(continuation.context, dtype="<i8").tobytes(), digest_size=16)
        for place, token in enumerate(continuation.ids.tolist()):
            row = known.setdefault(digest.digest(), len(rows.owners))
            if row == len(rows.owners):
                rows.owners.append((number, place))
                rows.lengths.append(len(continuation.context) + place)
                rows.wanted.append({})
            rows.wanted[row].setdefault(token, []).append((number, place))
            digest.update(token.to_bytes(8, "little", signed=True))
            rows.asked += 1
    return rows


@dataclass(frozen=True, kw_only=True)
class ThreeMasks:
    """A loaded encoder that scores and writes continuations."""

    engine: Engine
    mask: int
    separator: int
    label_offset: int
    """0, or -1 for MNTP: the first mask's prediction stands one position earlier."""

    @property
    def room(self) -> int:
        """Tokens of the longest text that still takes its masks."""
        return self.engine.maximum_length - ADDED

    def fitted(self, context: Ids, more: int) -> tuple[Ids, bool]:
        """The context, cut from the left behind [CLS] where ``more`` tokens would not fit; whether it was cut.

        Raises DataError when the model has no room for ``more`` tokens at all.
        """
        left = self.room - more
        if left < 1:
            raise DataError(
                f"a continuation of {more} tokens does not fit into a model of {self.engine.maximum_length} tokens "
                f"with {MASKS} masks, [CLS] and [SEP]; leave the task out, or take a model with longer texts"
            )
        if len(context) <= left:
            return context, False
        return np.concatenate([context[:1], context[len(context) - left + 1 :]]), True

    def scores(
        self, continuations: Sequence[Continuation], told: Told = lambda done: None, rows: Rows | None = None
    ) -> list[Scored]:
        """Score all; ``told`` hears how many different rows are done. The order never changes an answer.

        ``rows``: their plan, where it has been made before.
        """
        rows = rows or plan(continuations)
        log_p = [np.zeros(len(continuation.ids)) for continuation in continuations]
        first = [np.zeros(len(continuation.ids), dtype=np.int64) for continuation in continuations]
        lengths = [length + ADDED for length in rows.lengths]
        done = 0
        for chosen in passes(lengths, [1] * len(lengths), self.engine.tokens_per_pass):
            owners = [(continuations[i], place) for i, place in (rows.owners[row] for row in chosen)]
            texts = [np.concatenate([owner.context, owner.ids[:place]]) for owner, place in owners]
            tokens = [list(rows.wanted[row]) for row in chosen]
            for row, row_tokens, row_log_p, best in zip(chosen, tokens, *self._read(texts, tokens), strict=True):
                for token, value in zip(row_tokens, row_log_p, strict=True):
                    for number, place in rows.wanted[row][token]:
                        log_p[number][place], first[number][place] = value, best
            done += len(chosen)
            told(done)
        return [
            Scored(log_probability=float(p.sum()), greedy=bool((best == continuation.ids).all()))
            for p, best, continuation in zip(log_p, first, continuations, strict=True)
        ]

    def _read(
        self, texts: Sequence[Ids], tokens: Sequence[Sequence[int]]
    ) -> tuple[Iterator[NDArray[np.float64]], list[int]]:
        """Log-probabilities of some tokens behind each text, and the most probable token there."""
        logits_BV = self._next(texts)
        counts = [len(row) for row in tokens]
        rows_L = torch.from_numpy(np.repeat(np.arange(len(texts)), counts)).to(logits_BV.device)
        tokens_L = torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.int64) for row in tokens]))
        sums_B = logits_BV.logsumexp(-1).double()
        log_p_L = logits_BV[rows_L, tokens_L.to(logits_BV.device)].double() - sums_B[rows_L]
        return iter(np.split(log_p_L.cpu().numpy(), np.cumsum(counts)[:-1])), logits_BV.argmax(-1).tolist()

    def _next(self, texts: Sequence[Ids]) -> torch.Tensor:
        """Logits [B, V] of the token behind each text."""
        tail = np.array([self.mask] * MASKS + [self.separator])
        rows = [np.concatenate([text, tail]) for text in texts]
        return self.engine.logits(rows, [np.array([len(text) + self.label_offset]) for text in texts])

    def next_tokens(self, texts: Sequence[Ids]) -> list[int]:
        """The most probable token behind each text."""
        found = [0] * len(texts)
        lengths = [len(text) + ADDED for text in texts]
        for chosen in passes(lengths, [1] * len(lengths), self.engine.tokens_per_pass):
            best = self._next([texts[i] for i in chosen]).argmax(-1).tolist()
            for i, token in zip(chosen, best, strict=True):
                found[i] = token
        return found
