"""How a bucket of tensors is cut among the data ranks, and which rank stores a tensor that a cut goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Elements of a flat tensor that lie on one data rank."""

    rank: int
    start: int
    stop: int


def parts_of(first: int, stop: int, share: int) -> list[Part]:
    """The parts of a tensor at the elements [first, stop) of a bucket of which every rank holds ``share`` in turn."""
    return [
        Part(rank, max(first, rank * share) - first, min(stop, (rank + 1) * share) - first)
        for rank in range(first // share, -(-stop // share))
    ]


def storing_rank(parts: Sequence[Part]) -> int:
    """The rank that holds most of a tensor, the first of several."""
    return max(parts, key=lambda part: part.stop - part.start).rank
