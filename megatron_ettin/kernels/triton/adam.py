"""StableAdamW over any number of tensors in three launches: moments with their statistics, sums, updates."""

# N tensors, P programs, of which each has a chunk of one tensor

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from megatron_ettin.kernels.triton.launch import KernelCost, launch

CHUNK = 4096
"""Numbers that a program moves."""
WARPS = 8
SUMMED_AT_ONCE = 256


class TensorTable:
    """Where the numbers of some tensors lie, and which program moves which: float32, contiguous, of one device.

    It holds as long as all tensors stay where they are. ``move`` brings a tensor of the host to the device.
    """

    def __init__(self, kinds: Sequence[Sequence[Tensor]], move: Callable[[Tensor], Tensor]) -> None:
        self.places = places_of(kinds)
        sizes = np.array([tensor.numel() for tensor in kinds[0]], np.int64)
        chunks = -(-sizes // CHUNK)
        bounds = np.concatenate([[0], np.cumsum(chunks)])
        of_program = np.repeat(np.arange(len(sizes)), chunks)
        first = (np.arange(bounds[-1]) - bounds[of_program]) * CHUNK
        self.tensors, self.programs = len(sizes), int(bounds[-1])

        def on_device(numbers: NDArray[np.int64]) -> Tensor:
            return move(torch.from_numpy(np.ascontiguousarray(numbers, np.int64)))

        addresses = np.array([[address for address, _ in kind] for kind in self.places], np.int64)
        self.addresses_KN, self.sizes_N = on_device(addresses), on_device(sizes)
        self.chunks_P2, self.bounds_N1 = on_device(np.stack([of_program, first], axis=1)), on_device(bounds)


Places = tuple[tuple[tuple[int, int], ...], ...]
"""Address and size of each tensor of each kind."""


def places_of(kinds: Sequence[Sequence[Tensor]]) -> Places:
    """Where the tensors lie."""
    return tuple(tuple((tensor.data_ptr(), tensor.numel()) for tensor in kind) for kind in kinds)


def second_moments(table: TensorTable, beta2: float, epsilon: float) -> Tensor:
    """Moves the second moments; the sum of g^2 / max(v, epsilon^2) of each tensor, [N], float64.

    The kinds of the table are tensors, gradients, first and second moments. Chunks are added up in their order, so that
    the same numbers give the same bits.
    """
    sums_P = torch.empty(table.programs, dtype=torch.float32, device=table.sizes_N.device)
    sums_N = torch.zeros(table.tensors, dtype=torch.float64, device=table.sizes_N.device)
    launch(
        second_moments_kernel, (table.programs,), table.addresses_KN, table.sizes_N, table.chunks_P2, sums_P,
        table.tensors, beta2, 1.0 - beta2, epsilon * epsilon, CHUNK=CHUNK, num_warps=WARPS,
    )  # fmt: skip
    launch(sums_kernel, (table.tensors,), sums_P, table.bounds_N1, sums_N, AT_ONCE=SUMMED_AT_ONCE)
    return sums_N


def update(table: TensorTable, beta1: float, epsilon: float, rates_N: Tensor, keeps_N: Tensor) -> None:
    """Moves the first moments, and each tensor by its rate and its share to keep, float64 [N]."""
    scales_2N = torch.stack([rates_N, keeps_N]).float()
    launch(
        update_kernel, (table.programs,), table.addresses_KN, table.sizes_N, table.chunks_P2, scales_2N,
        table.tensors, beta1, 1.0 - beta1, epsilon, CHUNK=CHUNK, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def at(addresses, tensors, kind: tl.constexpr, tensor):
    """A pointer to the numbers of one kind of one tensor."""
    return tl.load(addresses + kind * tensors + tensor).to(tl.pointer_type(tl.float32))


@triton.jit(do_not_specialize=["tensors"])
def second_moments_kernel(addresses, sizes, chunks, sums, tensors, beta, rest, least, CHUNK: tl.constexpr):
    """One chunk: v = beta v + (1 - beta) g^2, and the sum of g^2 / max(v, least)."""
    program = tl.program_id(0)
    tensor = tl.load(chunks + 2 * program)
    place = tl.load(chunks + 2 * program + 1) + tl.arange(0, CHUNK)
    inside = place < tl.load(sizes + tensor)
    gradient = tl.load(at(addresses, tensors, 1, tensor) + place, mask=inside, other=0.0)
    seconds = at(addresses, tensors, 3, tensor) + place
    square = gradient * gradient
    second = tl.load(seconds, mask=inside, other=1.0) * beta + square * rest
    tl.store(seconds, second, mask=inside)
    share = tl.where(inside, square / tl.maximum(second, least), 0.0)
    tl.store(sums + program, tl.sum(share, axis=0))


@triton.jit
def sums_kernel(parts, bounds, sums, AT_ONCE: tl.constexpr):
    """The sum over the chunks of one tensor, in float64."""
    tensor = tl.program_id(0)
    last = tl.load(bounds + tensor + 1)
    total = tl.zeros((AT_ONCE,), dtype=tl.float64)
    place = tl.load(bounds + tensor) + tl.arange(0, AT_ONCE)
    while tl.min(place, axis=0) < last:
        total += tl.load(parts + place, mask=place < last, other=0.0).to(tl.float64)
        place += AT_ONCE
    tl.store(sums + tensor, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["tensors"])
def update_kernel(addresses, sizes, chunks, scales, tensors, beta, rest, epsilon, CHUNK: tl.constexpr):
    """One chunk: m = beta m + (1 - beta) g, p = keep p - rate m / (sqrt(v) + epsilon)."""
    program = tl.program_id(0)
    tensor = tl.load(chunks + 2 * program)
    place = tl.load(chunks + 2 * program + 1) + tl.arange(0, CHUNK)
    inside = place < tl.load(sizes + tensor)
    rate, keep = tl.load(scales + tensor), tl.load(scales + tensors + tensor)
    gradient = tl.load(at(addresses, tensors, 1, tensor) + place, mask=inside, other=0.0)
    second = tl.load(at(addresses, tensors, 3, tensor) + place, mask=inside, other=1.0)
    firsts, numbers = at(addresses, tensors, 2, tensor) + place, at(addresses, tensors, 0, tensor) + place
    first = tl.load(firsts, mask=inside, other=0.0) * beta + gradient * rest
    tl.store(firsts, first, mask=inside)
    moved = tl.load(numbers, mask=inside, other=0.0) * keep - rate * first / (tl.sqrt(second) + epsilon)
    tl.store(numbers, moved, mask=inside)


def cost(sizes: Sequence[int]) -> KernelCost:
    """Of the two passes over tensors of these sizes, without tables and sums."""
    numbers = sum(sizes)
    return KernelCost(read=4 * (2 + 4) * numbers, written=4 * (1 + 2) * numbers, operations=14 * numbers)
