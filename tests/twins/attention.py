"""Attention by its definition, in fp64, with every mask written out: the twin of all back ends."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(qkv_TN3D: Tensor, bounds: list[int], left: int | None, right: int | None) -> Tensor:
    """Output [T, N, D]: softmax over the keys of the query's own segment within `left` and `right` tokens of it."""
    query, key, value = (qkv_TN3D[:, :, part].double().transpose(0, 1) for part in range(3))
    tokens = query.shape[1]
    index = torch.arange(tokens)
    segment = torch.bucketize(index, torch.tensor(bounds[1:]), right=True)
    offset = index[None, :] - index[:, None]
    seen = segment[:, None] == segment[None, :]
    if left is not None:
        seen &= offset >= -left
    if right is not None:
        seen &= offset <= right
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(0, 1)
