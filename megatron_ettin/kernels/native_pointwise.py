"""The pointwise parts of a layer by the extension, on a CPU: one pass over memory each."""

# T tokens, N heads, D head size; the axis of three holds query, key, value

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_ettin import _native


def native_gated_gelu(gated: Tensor) -> Tensor:
    """gelu(first half) * second half of the last axis, with the exact (erf) GELU; for tensors that are native."""
    output: Tensor = _GatedGelu.apply(gated)  # type: ignore[no-untyped-call]
    return output


def native_rotate_(qkv_TN3D: Tensor, cosine_TD: Tensor, sine_TD: Tensor) -> None:
    """Turn queries and keys in place by the tables [T, D/2]; for contiguous tensors that are native. No gradient."""
    tokens, heads, _, size = qkv_TN3D.shape
    cosine, sine = cosine_TD.float().contiguous(), sine_TD.float().contiguous()
    _native.rotate(
        projection=qkv_TN3D.data_ptr(), bfloat16=qkv_TN3D.dtype == torch.bfloat16, tokens=tokens, heads=heads,
        head_size=size, cosine=cosine.data_ptr(), sine=sine.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip


class _GatedGelu(torch.autograd.Function):
    """One pass each way, in float32 whatever the type; keeps nothing but its input."""

    @staticmethod
    def forward(ctx: Any, gated: Tensor) -> Tensor:
        gated = gated.contiguous()
        ctx.save_for_backward(gated)
        width = gated.shape[-1] // 2
        output = gated.new_empty(*gated.shape[:-1], width)
        _native.gated_gelu(output=output.data_ptr(), **_rows(gated))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gated,) = ctx.saved_tensors
        gradient, gated_gradient = gradients[0].contiguous(), torch.empty_like(gated)
        _native.gated_gelu_backward(
            gradient=gradient.data_ptr(), gated_gradient=gated_gradient.data_ptr(), **_rows(gated)
        )
        return gated_gradient


def _rows(gated: Tensor) -> dict[str, Any]:
    width = gated.shape[-1] // 2
    return {
        "gated": gated.data_ptr(),
        "bfloat16": gated.dtype == torch.bfloat16,
        "rows": gated.numel() // (2 * width),
        "width": width,
        "threads": torch.get_num_threads(),
    }
