"""The extension's pointwise parts of a layer are torch's, with their gradients, up to rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_ettin.kernels.pointwise import gated_gelu, gated_gelu_here, rotate_here_
from megatron_ettin.kernels.rope import rotate, rotate_

ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7}
"""Of the largest value, against float64 on the same numbers; a rotation of bf16 numbers is rounded twice."""


def outcome(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient."""
    leaf = x.clone().requires_grad_()
    output = function(leaf)
    output.backward(upstream)
    assert leaf.grad is not None
    return output.detach(), leaf.grad


def assert_close(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, exact in zip(got, expected, strict=True):
        assert float((ours.double() - exact).abs().max() / exact.abs().max()) <= ROUNDING[ours.dtype]


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_gated_gelu_is_torch_s_with_its_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gated, upstream = (torch.randn(7, 1, width).mul(3).to(dtype) for width in (2 * 53, 53))
    exact = outcome(gated_gelu, gated.double(), upstream.double())
    assert_close(outcome(gated_gelu_here, gated, upstream), exact)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_rotation_is_torch_s_with_its_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    qkv, upstream = (torch.randn(7, 1, 2 * 3 * 16).to(dtype) for _ in range(2))
    angle = torch.rand(7, 8).mul(6)
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)

    def rotated(turn: Callable[..., None]) -> Callable[[Tensor], Tensor]:
        return lambda x: rotate(x.mul(1), 2, cosine.to(x.dtype), sine.to(x.dtype), turn)

    exact = outcome(rotated(rotate_), qkv.double(), upstream.double())
    assert_close(outcome(rotated(rotate_here_), qkv, upstream), exact)
