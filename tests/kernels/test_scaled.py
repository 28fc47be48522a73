"""Products in fp8 by torch: what is rounded, and that nothing else is. A CPU has the same products as a Hopper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megatron_ettin.kernels.scaled import BACKWARD, FORWARD, LARGEST, ScaledLinear, scaled

BF16, FP32 = 2**-8, 1e-5
"""One rounding of an output; sums of 64 products in fp32."""
TOKENS, INPUTS, OUTPUTS = 32, 64, 48


def table(kind: torch.dtype) -> Tensor:
    """Every finite number of a type, from its bits: sign, exponent, significand."""
    exponent_bits, bias = (4, 7) if kind == FORWARD else (5, 15)
    bits = torch.arange(256)
    fraction_bits = 7 - exponent_bits
    exponent, fraction = (bits >> fraction_bits) & (2**exponent_bits - 1), bits & (2**fraction_bits - 1)
    usual = (1 + fraction / 2**fraction_bits) * 2.0 ** (exponent - bias)
    small = fraction / 2**fraction_bits * 2.0 ** (1 - bias)
    numbers = torch.where(exponent == 0, small, usual) * torch.where(bits >= 128, -1.0, 1.0)
    return numbers[numbers.abs() <= LARGEST[kind]].double().unique()


@pytest.mark.parametrize("kind", [FORWARD, BACKWARD])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 448.0, 3e4])
def test_each_number_becomes_the_nearest_one_under_a_power_of_two(kind: torch.dtype, size: float) -> None:
    x = (size * torch.randn(64, 16, generator=torch.Generator().manual_seed(1))).bfloat16()
    x8, scale = scaled(x, kind)
    assert x8.dtype == kind and float(torch.frexp(scale)[0]) == 0.5, "a power of two"
    wanted = x.double() / scale.double()
    assert LARGEST[kind] / 4 <= float(wanted.abs().max()) < LARGEST[kind]
    nearest = (wanted.flatten()[:, None] - table(kind)[None]).abs().amin(1)
    assert torch.equal((x8.double() - wanted).flatten().abs(), nearest)


def test_nothing_and_zeros_are_scaled_by_one_and_bad_numbers_stay_bad() -> None:
    assert float(scaled(torch.zeros(4, 16), FORWARD)[1]) == 1.0
    assert scaled(torch.zeros(0, 16), FORWARD)[0].shape == (0, 16)
    for bad in (float("nan"), float("inf")):
        x = torch.ones(16, 16, dtype=torch.bfloat16)
        x[3, 5] = bad
        weight = torch.ones(16, 16, dtype=torch.bfloat16)
        assert not ScaledLinear.apply(x, weight, None, None, False).isfinite().all()


def rounded(x: Tensor, kind: torch.dtype) -> Tensor:
    """What fp8 makes of a tensor, in fp64."""
    x8, scale = scaled(x, kind)
    return x8.double() * scale.double()


def operands() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(  # type: ignore[return-value]
        torch.randn(*shape, generator=generator).bfloat16()
        for shape in ((TOKENS, 1, INPUTS), (OUTPUTS, INPUTS), (TOKENS, 1, OUTPUTS))
    )


def test_outputs_and_gradients_are_products_of_the_rounded_numbers() -> None:
    x, weight, gradient = operands()
    x.requires_grad_(), weight.requires_grad_()
    output = ScaledLinear.apply(x, weight, None, None, False)
    output.backward(gradient)
    x8, w8 = rounded(x.detach(), FORWARD)[:, 0], rounded(weight.detach(), FORWARD)
    g8 = rounded(gradient, BACKWARD)[:, 0]
    for found, exact in ((output.detach()[:, 0], x8 @ w8.t()), (x.grad[:, 0], g8 @ w8), (weight.grad, g8.t() @ x8)):
        assert float((found.double() - exact).abs().max() / exact.abs().max()) < BF16


def test_gradients_of_weights_are_added_to_their_buffer_without_rounding() -> None:
    x, weight, gradient = operands()
    weight.requires_grad_()
    buffer = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(3))
    before = buffer.clone()
    for _ in range(2):
        ScaledLinear.apply(x, weight, buffer, None, False).backward(gradient)
    once = rounded(gradient, BACKWARD)[:, 0].t() @ rounded(x, FORWARD)[:, 0]
    exact = before.double() + 2 * once
    assert float((buffer.double() - exact).abs().max() / exact.abs().max()) < FP32
    assert weight.grad_added_to_main_grad and not weight.zero_out_wgrad  # type: ignore[attr-defined]


def test_what_does_not_learn_costs_nothing() -> None:
    x, weight, gradient = operands()
    x.requires_grad_()
    ScaledLinear.apply(x, weight, None, None, False).backward(gradient)
    assert x.grad is not None and weight.grad is None
