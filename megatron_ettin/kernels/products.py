"""Matrix products: weight gradients straight into their buffer, and on a CPU bf16 ones in float32 where that is faster.

A float32 product of bf16 numbers is the exact one up to float32 rounding, so widening changes only time.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor


@functools.cache
def widens() -> bool:
    """Whether bf16 products are computed in float32 here: where the processor has no fast bf16 instruction.

    With AMX a bf16 product is many times faster than a float32 one, and on AMD's processors with AVX-512 bf16 twice
    as fast. Intel's without AMX take twice as long as float32 for the bf16 instruction, older ones convert instead.
    """
    if torch.cuda.is_available():
        return False
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    x86 = "GenuineIntel" in text or "AuthenticAMD" in text
    return x86 and "amx_bf16" not in text and not ("AuthenticAMD" in text and "avx512_bf16" in text)


_memory: dict[str, Tensor] = {}
"""Of widened operands, kept: fresh pages would cost as much as the conversion."""


def _scratch(name: str, *shape: int) -> Tensor:
    """Uninitialized float32 of that shape; the same memory for the same name."""
    needed = math.prod(shape)
    if name not in _memory or _memory[name].numel() < needed:
        _memory[name] = torch.empty(needed)
    return _memory[name][:needed].view(shape)


def widened(name: str, x: Tensor) -> Tensor:
    """A float32 copy of a matrix that is valid until the name is used again; other types are passed through."""
    if x.dtype != torch.bfloat16:
        return x
    if not x.is_contiguous() and x.t().is_contiguous():
        return widened(name, x.t()).t()
    return _scratch(name, *x.shape).copy_(x)


def product(left: Tensor, right: Tensor) -> Tensor:
    """left [..., K] @ right [K, N] in their type; bf16 by way of float32 where that is faster, and rounded once."""
    rows = left.reshape(-1, left.shape[-1])
    result = left.new_empty(*left.shape[:-1], right.shape[1])
    if not _widens(left):
        torch.mm(rows, right, out=result.view(-1, right.shape[1]))
        return result
    wide = _scratch("result", rows.shape[0], right.shape[1])
    torch.mm(widened("left", rows), widened("right", right), out=wide)
    result.view(-1, right.shape[1]).copy_(wide)
    return result


def weight_gradient(inputs: Tensor, gradient: Tensor) -> Tensor:
    """gradient [T, N]^T @ inputs [T, K] in their type."""
    if not _widens(gradient):
        return gradient.t() @ inputs
    wide = _scratch("result", gradient.shape[1], inputs.shape[1])
    return torch.mm(widened("left", gradient).t(), widened("right", inputs), out=wide).to(gradient.dtype)


def add_weight_gradient(inputs: Tensor, gradient: Tensor, buffer: Tensor) -> None:
    """buffer [N, K] += gradient [T, N]^T @ inputs [T, K], in the buffer's type."""
    if _widens(gradient):
        buffer.addmm_(widened("left", gradient).t(), widened("right", inputs))
    else:
        multiply_into(buffer, gradient.t(), inputs, add=True)


def multiply_into(target: Tensor, left: Tensor, right: Tensor, *, add: bool) -> None:
    """target = left @ right, or target += left @ right, in the target's type.

    On a GPU sums of bf16 products go into a float32 target as they are; on a CPU they are rounded to bf16 before.
    """
    if left.dtype == target.dtype:
        target.addmm_(left, right) if add else torch.mm(left, right, out=target)
    elif keeps_sums(target.device):
        kind = target.dtype
        if add:
            torch.addmm(target, left, right, out_dtype=kind, out=target)
        else:
            torch.mm(left, right, out_dtype=kind, out=target)
    else:
        target.add_(left @ right) if add else target.copy_(left @ right)


def keeps_sums(device: torch.device) -> bool:
    """Whether products of bf16 numbers can be added to float32 there without being rounded: on a GPU, by this torch."""
    return device.type != "cpu" and hasattr(torch.ops.aten.addmm, "dtype_out")


def fills_buffers(device: torch.device) -> bool:
    """Whether weight gradients are added to their buffers by the products themselves."""
    return device.type == "cpu" or keeps_sums(device)


def _widens(x: Tensor) -> bool:
    """Whether products of this matrix are computed in float32 instead of its own type."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and widens()
