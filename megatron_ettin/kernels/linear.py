"""What a linear layer computes: Megatron-Core's function, messages included, whose products suit the device."""

# T tokens (of all tensor ranks under sequence parallelism), K inputs, N outputs of this rank

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_ettin.kernels import products


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gradient_accumulation_fusion: bool,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    grad_output_buffer: object = None,
    wgrad_deferral_limit: object = None,
    tp_group: ProcessGroup | None = None,
) -> Tensor:
    """Stands for Megatron-Core's function, whose arguments these are: input [T, ..., K] times weight [N, K].

    With fusion the weight's gradient is added to its buffer. Raises ValueError for what this software never asks for.
    """
    if bias is not None or grad_output_buffer is not None:
        raise ValueError("linear layers have no bias here and do not defer their weights' gradients")
    buffer = getattr(weight, "main_grad", None) if gradient_accumulation_fusion else None
    group = tp_group if sequence_parallel or allreduce_dgrad else None
    output: Tensor = Linear.apply(input, weight, buffer, group, sequence_parallel)  # type: ignore[no-untyped-call]
    return output


class Linear(torch.autograd.Function):
    """input @ weight^T. `group`: the tensor ranks that share the input, or under sequence parallelism its tokens."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, buffer: Tensor | None, group: ProcessGroup | None, sequence: bool
    ) -> Tensor:
        """The product of the whole sequence with the transposed weight, bf16 by way of fp32 where that is faster."""
        ctx.save_for_backward(input, weight)
        ctx.buffer, ctx.group, ctx.sequence = buffer, group, sequence
        return products.product(_gathered(input, group) if sequence else input, weight.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input and weight, as far as they learn; the weight's goes into its buffer where there is one.

        Messages travel meanwhile: the input's tokens during the first product, the input's gradient during the second.
        """
        input, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_input, of_weight, *_ = ctx.needs_input_grad
        arrives = leaves = d_input = d_weight = None
        if ctx.sequence and of_weight:
            input, arrives = _gathering(input, ctx.group)
        if of_input:
            d_input = products.product(gradient, weight)
            if ctx.group is not None:
                d_input, leaves = _reducing(d_input, ctx.group, ctx.sequence)
        if arrives is not None:
            arrives.wait()
        if of_weight:
            rows, outputs = input.reshape(-1, input.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
            if ctx.buffer is None:
                d_weight = products.weight_gradient(rows, outputs)
            else:
                products.add_weight_gradient(rows, outputs, ctx.buffer)
                d_weight = no_gradient(weight)
        if leaves is not None:
            leaves.wait()
        return d_input, d_weight, None, None, None


def no_gradient(weight: Any) -> Tensor:
    """What to return for a weight whose gradient has been added to its buffer: memory that nobody touches.

    Megatron-Core's hook needs some gradient to run, and looks at both marks: the second would have it added although
    the first says that nothing is left to add.
    """
    weight.grad_added_to_main_grad = True
    weight.zero_out_wgrad = False
    return torch.empty_like(weight)


def _gathered(input: Tensor, group: ProcessGroup | None) -> Tensor:
    """The tokens of all tensor ranks."""
    whole, arrives = _gathering(input, group)
    if arrives is not None:
        arrives.wait()
    return whole


def _gathering(input: Tensor, group: ProcessGroup | None) -> tuple[Tensor, dist.Work | None]:
    """Where the tokens of all tensor ranks arrive, and what to wait for."""
    whole = input.new_empty(input.shape[0] * dist.get_world_size(group), *input.shape[1:])
    return whole, dist.all_gather_into_tensor(whole, input.contiguous(), group=group, async_op=True)


def _reducing(whole: Tensor, group: ProcessGroup, sequence: bool) -> tuple[Tensor, dist.Work | None]:
    """Where the sum over the tensor ranks arrives, under sequence parallelism for this rank's tokens alone."""
    if not sequence:
        return whole, dist.all_reduce(whole, group=group, async_op=True)
    own = whole.new_empty(whole.shape[0] // dist.get_world_size(group), *whole.shape[1:])
    return own, dist.reduce_scatter_tensor(own, whole, group=group, async_op=True)
