"""The weights of a model for another vocabulary: rows of known tokens as they are, others from their pieces."""

# P pieces, R rows of the new vocabulary, V of the old

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from megatron_ettin.checkpoint.weights import LazyTensors
from megatron_ettin.config.weights import TABLE
from megatron_ettin.derive.matching import Matches

BY_VOCABULARY = frozenset(name for name, (_, split) in TABLE.items() if split == "vocabulary")
"""Weights with a row for each token: the embedding, which is the output projection too, and the head's bias."""
BLOCK = 2**13
"""New tokens whose pieces are added up at a time."""


class Reworded(LazyTensors):
    """A model's weights with the rows of another vocabulary, each made when it is asked for.

    Costs the old and the new rows of a weight in memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor], matches: Matches, known: frozenset[int]) -> None:
        """``known``: the old ids that are tokens; the mean of their rows stands for a token without pieces."""
        super().__init__(tensors)
        self._tensors, self._matches, self._known = tensors, matches, sorted(known)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        return self._rows(tensor) if name in BY_VOCABULARY else tensor

    def _rows(self, old: Tensor) -> Tensor:
        """Rows of known tokens bit for bit; others the mean of their pieces, in float64 and rounded once."""
        matches = self._matches
        rows = old[self._known].mean(0, dtype=torch.float64).float().expand(matches.size, *old.shape[1:]).clone()
        rows[list(matches.unchanged)] = old[list(matches.unchanged.values())]
        made = [(new, ids) for new, ids in matches.pieces.items() if ids]
        for start in range(0, len(made), BLOCK):
            block = made[start : start + BLOCK]
            lengths = torch.tensor([len(ids) for _, ids in block])
            of_row_P = torch.arange(len(block)).repeat_interleave(lengths)
            pieces_P = torch.tensor([number for _, ids in block for number in ids])
            sums = torch.zeros(len(block), *old.shape[1:], dtype=torch.float64)
            sums.index_add_(0, of_row_P, old[pieces_P].double())
            rows[[new for new, _ in block]] = (sums / lengths.view(-1, *[1] * (old.dim() - 1))).float()
        return rows
