"""Linear layers in fp8 by torch's scaled product, where Transformer Engine is not there.

Every tensor is scaled by its own largest number, to a power of two: dividing by it and multiplying again is exact, so
that rounding to 4 bits of significand forward and 3 backward is all that fp8 changes. Sums are in fp32, and the
gradient of a weight goes into its buffer unrounded.
"""

# T tokens (of all tensor ranks under sequence parallelism), K inputs, N outputs of this rank

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_ettin.kernels.linear import no_gradient

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
"""Numbers need precision forward, gradients range."""
LARGEST = {FORWARD: 448.0, BACKWARD: 57_344.0}


def scaled(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """A tensor in fp8, and the power of two in fp32, shape [], that multiplies it: none of its numbers overflows.

    Two readings and a writing; nobody waits for the scale. A number that is not finite makes products that are not.
    """
    largest = torch.linalg.vector_norm(x, float("inf")).float() if x.numel() else x.new_zeros((), dtype=torch.float32)
    _, exponent = torch.frexp(largest / LARGEST[kind])
    scale = torch.ldexp(torch.ones_like(largest), exponent) + 0.0 * largest  # not finite where a number is not
    return (x / scale.to(x.dtype)).to(kind), scale


def product(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], dtype: torch.dtype, fast: bool) -> Tensor:
    """left [M, K] @ right [N, K]^T, both row by row in memory, in ``dtype``.

    ``fast``: sums of a Hopper's tensor cores are not brought to fp32 in between.
    """
    (a, scale_a), (b, scale_b) = left, right
    found: Tensor = torch._scaled_mm(
        a, b.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=fast and a.is_cuda
    )
    return found


class ScaledLinear(torch.autograd.Function):
    """input [T, ..., K] @ weight [N, K]^T. `group`: the tensor ranks that share the input, or under `sequence` its
    tokens. `buffer`: where the weight's gradient is added in fp32; None: it is returned."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, buffer: Tensor | None, group: ProcessGroup | None, sequence: bool
    ) -> Tensor:
        """The product of the whole sequence; kept are both operands in fp8."""
        whole = input
        if sequence:
            whole = input.new_empty(input.shape[0] * dist.get_world_size(group), *input.shape[1:])
            dist.all_gather_into_tensor(whole, input.contiguous(), group=group)
        input8, weight8 = scaled(whole.reshape(-1, whole.shape[-1]), FORWARD), scaled(weight.detach(), FORWARD)
        ctx.save_for_backward(*input8, *weight8, weight)
        ctx.buffer, ctx.group, ctx.sequence = buffer, group, sequence
        return product(input8, weight8, input.dtype, fast=True).view(*whole.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input and weight, as far as they learn."""
        input_TK, input_scale, weight_NK, weight_scale, weight = ctx.saved_tensors
        gradient = gradients[0]
        of_input, of_weight, *_ = ctx.needs_input_grad
        gradient_TN, gradient_scale = scaled(gradient.reshape(-1, gradient.shape[-1]), BACKWARD)
        d_input = None
        if of_input:
            turned_KN = weight_NK.t().contiguous()
            d_whole = product((gradient_TN, gradient_scale), (turned_KN, weight_scale), gradient.dtype, fast=False)
            d_input = _shared(d_whole.view(*gradient.shape[:-1], input_TK.shape[-1]), ctx.group, ctx.sequence)
        if not of_weight:
            return d_input, None, None, None, None
        turned = (gradient_TN.t().contiguous(), gradient_scale), (input_TK.t().contiguous(), input_scale)
        d_weight = product(*turned, torch.float32, fast=False)
        if ctx.buffer is None:
            return d_input, d_weight.to(weight.dtype), None, None, None
        ctx.buffer.add_(d_weight)
        return d_input, no_gradient(weight), None, None, None


def _shared(gradient: Tensor, group: ProcessGroup | None, sequence: bool) -> Tensor:
    """The sum over the tensor ranks of what each found for the input; under ``sequence`` this rank's tokens of it."""
    if group is None:
        return gradient
    if not sequence:
        dist.all_reduce(gradient, group=group)
        return gradient
    own = gradient.new_empty(gradient.shape[0] // dist.get_world_size(group), *gradient.shape[1:])
    dist.reduce_scatter_tensor(own, gradient, group=group)
    return own
