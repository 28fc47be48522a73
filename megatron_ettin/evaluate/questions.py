"""Each kind of model is asked the same about the same text, in the way that it can answer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from megatron_ettin.config.objective import Objective
from megatron_ettin.evaluate.scorer import Request
from megatron_ettin.evaluate.text import MaskedPiece, PlainPiece

MASKS = 3
"""Masks that stand for the unseen rest when an encoder predicts the next token (Samuel, 2024)."""


def masked_requests(pieces: Sequence[MaskedPiece], objective: Objective) -> list[Request]:
    """The chosen tokens of each piece.

    An encoder reads the corrupted text, both sides of each gap. A decoder reads the true text and has only what is
    to the left of the token: no mask token exists for it.
    """
    return [
        Request(
            ids_T=piece.ids_T if objective.causal else piece.corrupted_T,
            positions_L=piece.positions_L + objective.label_offset,
            targets_L=piece.ids_T[piece.positions_L],
        )
        for piece in pieces
    ]


def next_requests(pieces: Sequence[PlainPiece]) -> list[Request]:
    """Every next token of each piece, for decoders: one pass a piece."""
    return [
        Request(ids_T=piece.ids_T[:-1], positions_L=np.arange(len(piece.ids_T) - 1), targets_L=piece.ids_T[1:])
        for piece in pieces
    ]


def sampled_places(pieces: Sequence[PlainPiece], count: int, seed: int = 0) -> list[tuple[int, int]]:
    """``count`` (piece, position) pairs, or all, drawn evenly over all tokens after [CLS]; the same for every model."""
    ends = np.cumsum([len(piece.ids_T) - 1 for piece in pieces])
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(np.random.Generator(np.random.Philox(seed)).choice(total, min(count, total), replace=False))
    owner = np.searchsorted(ends, chosen, side="right")
    first = np.concatenate([[0], ends])
    return [(int(p), int(token - first[p]) + 1) for p, token in zip(owner, chosen, strict=True)]


def next_at_places(
    pieces: Sequence[PlainPiece], places: Sequence[tuple[int, int]], objective: Objective, mask: int, separator: int
) -> list[Request]:
    """The token at each place from what is to its left, for any kind, in the order of the places.

    A decoder answers all places of a piece in one pass. An encoder needs a pass for each: what is to the left, three
    masks and [SEP], of which the first mask is read.
    """
    requests = []
    if objective.causal:
        for piece, group in itertools.groupby(places, key=lambda place: place[0]):
            positions_L = np.array([position for _, position in group])
            ids = pieces[piece].ids_T
            requests.append(
                Request(ids_T=ids[: positions_L.max()], positions_L=positions_L - 1, targets_L=ids[positions_L])
            )
        return requests
    for piece, position in places:
        ids = pieces[piece].ids_T
        prefix, target = ids[:position], ids[position : position + 1]
        row, read_at = np.concatenate([prefix, [mask] * MASKS, [separator]]), len(prefix) + objective.label_offset
        requests.append(Request(ids_T=row, positions_L=np.array([read_at]), targets_L=target))
    return requests
