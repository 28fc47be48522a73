"""The core attention of one layer: its reach, its back end and its context exchange."""

# T tokens of this rank, N heads, D head size; the axis of three holds query, key, value

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.config.run import RunConfig
from megatron_ettin.model.attention import native, sdpa, varlen
from megatron_ettin.model.attention.choice import Installed, by_flash_3
from megatron_ettin.model.attention.exchange import Exchange
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.model.pattern import LayerKind, Reach
from megatron_ettin.parallel.groups import Groups

Attend = Callable[[Tensor, Reach, PackedRows, Exchange | None, Wanted | None], Tensor]
"""(rotated queries, keys and values [T, N, 3, D], reach, segments, exchange, wanted) -> output [T, N, D].

With `wanted`, which `native` and the variable-length kernels take for an unbounded reach, only its rows: [L, N, D].
"""


class CoreAttention(torch.nn.Module):
    """Scaled dot-product attention of one layer on packed rows. Has no parameters."""

    def __init__(self, *, kind: LayerKind, attend: Attend, groups: Groups, **_: Any) -> None:
        super().__init__()
        self.kind, self.attend = kind, attend
        self.exchange = Exchange(groups.context) if groups.context.size > 1 else None
        by_kernel = isinstance(attend, partial) and attend.func is varlen.attend
        self.takes_parts = by_kernel and self.exchange is None and kind.reach.causal is None
        """Queries, keys and values may come one by one: nothing is exchanged or gathered before the kernel."""

    def forward(self, qkv: Tensor | varlen.Parts, packed: PackedRows, wanted: Wanted | None) -> Tensor:
        """Output [T, N, D] of rotated queries and keys, each query within its own segment and the layer's reach.

        They come with the values, [T, N, 3, D], or where `takes_parts` says so as three tensors.

        With `wanted`, of its queries alone, [L, N, D].
        """
        attend: Any = self.attend
        output_TND: Tensor = attend(qkv, self.kind.reach, packed, self.exchange, wanted)
        return output_TND


def attend_by(backend: str, kind: LayerKind, config: RunConfig, has: Installed) -> Attend:
    """The function that computes a layer's attention with the chosen back end."""
    if backend == "native":
        return native.attend
    if backend == "sdpa":
        return sdpa.attend
    if backend == "varlen":
        kernel = varlen.varlen_kernel(config.compute.attention == "auto" and by_flash_3(has))
    elif backend == "flash":
        kernel = varlen.flash_kernel(has.hopper and has.flash_hopper, config.compute.deterministic)
    else:
        heads, size = config.model.heads // config.layout.tensor, config.model.hidden // config.model.heads
        kernel = varlen.te_kernel(kind.index, heads, size, kind.reach)
    return partial(varlen.attend, kernel)
