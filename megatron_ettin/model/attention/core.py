"""The core attention of one layer: its reach, its back end and its context exchange."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.attention.sdpa import attend
from megatron_ettin.model.packed import PackedRows
from megatron_ettin.model.pattern import LayerKind
from megatron_ettin.parallel.groups import Groups


class CoreAttention(torch.nn.Module):
    """Scaled dot-product attention of one layer on packed rows. Has no parameters."""

    def __init__(self, *, kind: LayerKind, groups: Groups, **_: Any) -> None:
        super().__init__()
        self.kind = kind
        self.exchange = Exchange(groups.context) if groups.context.size > 1 else None

    def forward(self, qkv_TN3D: Tensor, packed: PackedRows) -> Tensor:
        """Output [T, N, D] of rotated queries and keys, each query within its own segment and the layer's reach."""
        return attend(qkv_TN3D, self.kind.reach, packed, self.exchange)
