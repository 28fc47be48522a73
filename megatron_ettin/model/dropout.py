"""Dropout whose masks are functions of a key: the same after a restart and in a recomputation."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_ettin.parallel.seeds import generator


def add_dropped(residual: Tensor, x: Tensor, share: float, key: tuple[int, ...]) -> Tensor:
    """residual + dropout(x): a share of `x`, drawn by the key, is zeroed and the rest scaled to keep the mean."""
    if share == 0.0:
        return residual + x
    kept = torch.empty_like(x).bernoulli_(1.0 - share, generator=generator(x.device, "dropout", *key))
    return torch.addcmul(residual, x, kept, value=1.0 / (1.0 - share))
