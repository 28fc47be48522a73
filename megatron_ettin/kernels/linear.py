"""Linear layers on a CPU: Megatron-Core's, messages included, with products that suit the processor in both passes."""

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
        raise ValueError("linear layers on a CPU have no bias and do not defer their weights' gradients")
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
        """Gradients of input and weight, as far as they learn; the weight's goes into its buffer where there is one."""
        input, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_input, of_weight, *_ = ctx.needs_input_grad
        d_input = products.product(gradient, weight) if of_input else None
        if d_input is None:
            input = _gathered(input, ctx.group) if ctx.sequence else input
        elif ctx.sequence:
            input, whole = _gathered(input, ctx.group), d_input
            d_input = whole.new_empty(whole.shape[0] // dist.get_world_size(ctx.group), *whole.shape[1:])
            dist.reduce_scatter_tensor(d_input, whole, group=ctx.group)
        elif ctx.group is not None:
            dist.all_reduce(d_input, group=ctx.group)
        if not of_weight:
            return d_input, None, None, None, None
        rows, outputs = input.reshape(-1, input.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        if ctx.buffer is None:
            return d_input, products.weight_gradient(rows, outputs), None, None, None
        products.add_weight_gradient(rows, outputs, ctx.buffer)
        return d_input, no_gradient(weight), None, None, None


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
    whole = input.new_empty(input.shape[0] * dist.get_world_size(group), *input.shape[1:])
    dist.all_gather_into_tensor(whole, input.contiguous(), group=group)
    return whole
