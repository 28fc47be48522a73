"""Dropout as a function of where a number stands: no layout, no split, no recomputation and no restart changes it."""

# T tokens of this rank (of some of them in the last layer), H hidden, G groups of 64 channels

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.kernels.pointwise import is_native

WORDS = 2**32
"""A draw is one of these."""
TOKENS_AT_ONCE = 8192
"""Tokens whose draws torch makes at once: it needs about 40 bytes a number for them."""


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Which numbers of some hidden states are dropped.

    Channel c of a token has word c % 64 // 16 of the Philox counter (layer << 16 | c // 64 * 16 + c % 16, place,
    place >> 32, step), and is dropped where that is below its share of 2**32.
    """

    share: float
    """Share of the numbers that is dropped, below 1."""
    key: int
    """64 bits, of (seed, stage)."""
    step: int
    """Number of the step."""
    layer: int
    """Number of the layer."""
    places_T: Tensor
    """Place of each token among all tokens of the step: row of the step * row length + position in the row, int64."""

    @property
    def dropped_below(self) -> int:
        """Draws below this drop their number."""
        return min(round(self.share * WORDS), WORDS - 1)

    @property
    def scale(self) -> float:
        """What is kept is multiplied by this, which keeps the mean."""
        return 1.0 / (1.0 - self.dropped_below / WORDS)


def add_dropped(residual: Tensor, x: Tensor, dropout: Dropout) -> Tensor:
    """residual + dropout(x), [T, ..., H], in one pass by the extension where it can, else by torch: the same bits."""
    output: Tensor = _AddDropped.apply(residual, x, dropout)  # type: ignore[no-untyped-call]
    return output


class _AddDropped(torch.autograd.Function):
    """On a CPU nothing is kept for the backward pass, which makes the draws again; elsewhere the mask is."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, dropout: Dropout) -> Tensor:
        """The sum, of the shape and type of its parts."""
        ctx.dropout, ctx.kept = dropout, None
        if is_native(x):
            return _dropped(x, dropout, residual)
        ctx.kept = kept(dropout, x.shape[-1]).view(x.shape)
        return torch.addcmul(residual, x, ctx.kept.to(x.dtype), value=dropout.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradient for the residual, and what of it was not dropped, scaled, for x."""
        (gradient,) = gradients
        if ctx.kept is None:
            return gradient, _dropped(gradient, ctx.dropout), None
        return gradient, gradient * ctx.kept * ctx.dropout.scale, None


def _dropped(x: Tensor, dropout: Dropout, residual: Tensor | None = None) -> Tensor:
    """dropout(x) by the extension, added to the residual."""
    x, residual = x.contiguous(), residual if residual is None else residual.contiguous()
    output = torch.empty_like(x)
    _native.drop(
        key=dropout.key, step=dropout.step, layer=dropout.layer, dropped_below=dropout.dropped_below,
        scale=dropout.scale, places=dropout.places_T.data_ptr(), tokens=dropout.places_T.shape[0],
        channels=x.shape[-1], bfloat16=x.dtype == torch.bfloat16,
        residual=0 if residual is None else residual.data_ptr(), x=x.data_ptr(), output=output.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return output


def kept(dropout: Dropout, channels: int) -> Tensor:
    """Which numbers stay, bool [T, H], by torch's operations on integers, on any device."""
    device = dropout.places_T.device
    groups = -(-channels // 64)
    numbers = torch.arange(groups, device=device)[:, None] * 16 + torch.arange(16, device=device)
    counter = (dropout.layer << 16 | numbers.reshape(1, -1)).expand(1, groups * 16)
    parts = []
    for places_T in torch.split(dropout.places_T, TOKENS_AT_ONCE):
        place_T1: Tensor = places_T[:, None]
        step = torch.full_like(place_T1, dropout.step)
        words = philox((counter, place_T1 & WORDS - 1, place_T1 >> 32, step), dropout.key)
        draws_TG4C = torch.stack([word.view(-1, groups, 16) for word in words], dim=2)
        parts.append(draws_TG4C.flatten(1)[:, :channels] >= dropout.dropped_below)
    return torch.cat(parts)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of Philox-4x32-10 for each counter, in int64; the counter's words may be broadcast."""
    a, b, c, d = counter
    key0, key1 = key % WORDS, key // WORDS
    for _ in range(10):
        # The products wrap around 2**64 as unsigned ones would; the shift fills with the sign, which the mask removes.
        one, other = a * 0xD2511F53, c * 0xCD9E8D57
        a, b = (other >> 32) & WORDS - 1 ^ b ^ key0, other & WORDS - 1
        c, d = (one >> 32) & WORDS - 1 ^ d ^ key1, one & WORDS - 1
        key0, key1 = (key0 + 0x9E3779B9) % WORDS, (key1 + 0xBB67AE85) % WORDS
    return a, b, c, d
