"""Pointwise parts of a layer and of the loss: by the extension on a CPU, one pass over memory each, else by torch.

Those by torch are plain functions that torch.compile turns into single kernels.
"""

# T tokens, N heads, D head size; the axis of three holds query, key, value
# L labels, V vocabulary rows of this tensor rank, I intermediate size

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels.kind import KernelKind
from megatron_ettin.kernels.rope import rotate_

if TYPE_CHECKING:
    from megatron_ettin.kernels.dropout import Dropout

Rotation = Callable[[Tensor, Tensor, Tensor], None]
"""(queries, keys and values [T, N, 3, D], cosine, sine): turns queries and keys in place."""
TurnBack = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(gradients of turned queries and keys and of values [T, N, D], cosine, sine) -> the projection's [T, N, 3, D]."""
AddAndNorm = Callable[[Tensor, Tensor, "Dropout | None", Tensor, float], tuple[Tensor, Tensor]]
"""(residual, x, dropout, weight of the norm, its epsilon) -> (residual + dropout(x), the norm of that sum)."""


@dataclass(frozen=True)
class Pointwise:
    """The pointwise parts of a layer, by one kind of kernels."""

    gated_gelu: Callable[[Tensor], Tensor]
    """gelu(first half) * second half of the last axis, [..., 2 I] -> [..., I]."""
    rotate: Rotation
    """The rotary embedding."""
    turn_back: TurnBack | None = None
    """Its backward pass where attention returns three gradients; None: these are stacked, then turned."""
    add_and_norm: AddAndNorm | None = None
    """Residual sum, dropout and norm; None: they are computed one after the other."""


def pointwise(kind: KernelKind) -> Pointwise:
    """One kernel a part: own, compiled, or on a CPU the extension's; elsewhere one operation after the other."""
    if kind == "own":
        from megatron_ettin.kernels.triton import add_norm, rotary
        from megatron_ettin.kernels.triton import gated_gelu as own_gelu

        return Pointwise(
            gated_gelu=own_gelu.gated_gelu, rotate=rotary.rotate_, turn_back=rotary.turn_back,
            add_and_norm=add_norm.add_norm,
        )  # fmt: skip
    if kind == "compiled":
        return Pointwise(gated_gelu=one_kernel(gated_gelu), rotate=one_kernel(rotate_))
    return Pointwise(gated_gelu=gated_gelu_here, rotate=rotate_here_)


@functools.cache
def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function; compiles at its first call, again when a number of dimensions or a type changes.

    Raises ConfigError where torch cannot compile at all. Cached, so that all layers share one.
    """
    dynamo: Any = torch._dynamo
    if not dynamo.is_dynamo_supported():
        raise ConfigError("compute.compile: torch.compile does not work in this Python; leave the setting off")
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True)
    return compiled


def is_native(x: Tensor) -> bool:
    """Whether the extension computes with this tensor: on a CPU, float32 or bfloat16; it adds up in float32."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def rotate_here_(qkv_TN3D: Tensor, cosine_TD: Tensor, sine_TD: Tensor) -> None:
    """Turn queries and keys in place by the tables [T, D/2], by the extension where it can, else by torch."""
    if not (is_native(qkv_TN3D) and qkv_TN3D.is_contiguous()):
        rotate_(qkv_TN3D, cosine_TD, sine_TD)
        return
    tokens, heads, _, size = qkv_TN3D.shape
    cosine, sine = cosine_TD.float().contiguous(), sine_TD.float().contiguous()
    _native.rotate(
        projection=qkv_TN3D.data_ptr(), bfloat16=qkv_TN3D.dtype == torch.bfloat16, tokens=tokens, heads=heads,
        head_size=size, cosine=cosine.data_ptr(), sine=sine.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip


def gated_gelu_here(gated: Tensor) -> Tensor:
    """gelu(first half) * second half of the last axis, by the extension where it can, else by torch."""
    if not is_native(gated):
        return gated_gelu(gated)
    output: Tensor = _GatedGelu.apply(gated)  # type: ignore[no-untyped-call]
    return output


class _GatedGelu(torch.autograd.Function):
    """One pass each way, in float32 whatever the type; keeps nothing but its input."""

    @staticmethod
    def forward(ctx: Any, gated: Tensor) -> Tensor:
        """[..., 2 I] -> [..., I]."""
        gated = gated.contiguous()
        ctx.save_for_backward(gated)
        output = gated.new_empty(*gated.shape[:-1], gated.shape[-1] // 2)
        _native.gated_gelu(output=output.data_ptr(), **_operand(gated))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient of both halves, [..., 2 I]."""
        (gated,) = ctx.saved_tensors
        gradient, gated_gradient = gradients[0].contiguous(), torch.empty_like(gated)
        _native.gated_gelu_backward(
            gradient=gradient.data_ptr(), gated_gradient=gated_gradient.data_ptr(), **_operand(gated)
        )
        return gated_gradient


def _operand(gated: Tensor) -> dict[str, Any]:
    """What both passes of the extension take for a contiguous [..., 2 I]."""
    width = gated.shape[-1] // 2
    return {
        "gated": gated.data_ptr(),
        "bfloat16": gated.dtype == torch.bfloat16,
        "rows": gated.numel() // (2 * width),
        "width": width,
        "threads": torch.get_num_threads(),
    }


def gated_gelu(gated: Tensor) -> Tensor:
    """gelu(first half) * second half of the last axis, with the exact (erf) GELU."""
    activated, linear = gated.chunk(2, dim=-1)
    return functional.gelu(activated) * linear


def softmax_statistics(
    logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(highest logit, sum of exp(logit - highest), the label's logit or 0 where another rank holds it), each [L].

    In fp32 whatever the type of the logits, which come without bias.
    """
    biased_LV = _exact(logits_LV) + _exact(bias_V)
    top_L = biased_LV.amax(dim=-1)
    sum_L = (biased_LV - top_L[:, None]).exp().sum(dim=-1)
    row_L = label_ids_L - first_row
    mine_L = (row_L >= 0) & (row_L < logits_LV.shape[1])
    label_L = biased_LV.gather(1, torch.where(mine_L, row_L, 0)[:, None]).squeeze(1)
    return top_L, sum_L, torch.where(mine_L, label_L, 0.0)


def softmax_gradients_(
    logits_LV: Tensor, bias_V: Tensor, label_ids_L: Tensor, first_row: int, log_sum_L: Tensor
) -> Tensor:
    """Turns logits into d loss / d logits in place; returns the gradient of the bias [V] in fp32."""
    columns_V = torch.arange(logits_LV.shape[1], device=logits_LV.device)
    at_label_LV = columns_V[None] == (label_ids_L - first_row)[:, None]
    share_LV = (_exact(logits_LV) + _exact(bias_V) - log_sum_L[:, None]).exp()
    gradient_LV = share_LV - at_label_LV.to(share_LV.dtype)
    logits_LV.copy_(gradient_LV)
    return gradient_LV.sum(dim=0)


def _exact(x: Tensor) -> Tensor:
    """In fp32, or in fp64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
