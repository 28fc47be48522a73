"""One weight out of several: the mean, and TIES (trim, elect a sign, mean of those that agree; arXiv 2306.01708)."""

# N values of a block

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from megatron_ettin.checkpoint.weights import LazyTensors
from megatron_ettin.machine import cores

BLOCK = 2**15
"""Values of each model that are joined at a time. What is made of them stays in a core's cache, and so few of them are
not shared by torch among threads, which would wait for one another at each small step: threads share blocks."""
LOW_BITS = 15
"""A magnitude's 31 bits are counted in two passes: the 16 high ones, then these of those that share the high ones."""


@dataclass(frozen=True)
class Mean:
    """The weighted mean, in float64 and rounded once: equal models give themselves bit for bit."""

    weights: tuple[float, ...]

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """The mean of each value: one float32 [N] of each model -> float32 [N]."""
        weighted = zip(values, self.weights, strict=True)
        first, weight = next(weighted)
        sum_N = first.double().mul_(weight)
        for value_N, weight in weighted:
            sum_N.add_(value_N.double(), alpha=weight)
        return sum_N.div_(math.fsum(self.weights)).float()


@dataclass(frozen=True)
class Ties:
    """TIES; the first of the values that are joined is the base."""

    weights: tuple[float, ...]
    thresholds: tuple[float, ...]
    """Of each model; a smaller change is trimmed, that is taken for none."""
    scale: float

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """The base where no change is left or none is elected; else the mean of the models that agree.

        With a scale of 1 the base plus the mean of changes is the mean of the models, which is rounded less.
        """
        base_N, *models = values
        changes, elected_N = [], torch.zeros(len(base_N), dtype=torch.float64)
        for value_N, weight, threshold in zip(models, self.weights, self.thresholds, strict=True):
            change_N = hardshrink(value_N - base_N, below(threshold))
            elected_N.add_(change_N.double(), alpha=weight)
            changes.append(change_N)
        sign_N = elected_N.sign_().float()
        total_N, sum_N = torch.zeros_like(elected_N), torch.zeros_like(elected_N)
        for value_N, change_N, weight in zip(models, changes, self.weights, strict=True):
            share_N = change_N.mul_(sign_N).gt(0).double().mul_(weight)
            total_N.add_(share_N)
            sum_N.addcmul_(share_N, value_N.double())
        joined_N = sum_N.div_(total_N)
        if self.scale != 1:
            joined_N = base_N + self.scale * (joined_N - base_N)
        return torch.where(total_N > 0, joined_N.float(), base_N)


def below(threshold: float) -> float:
    """The largest float32 below a threshold, for a comparison that leaves out equality; 0 for 0."""
    return float(torch.nextafter(torch.tensor(threshold), torch.tensor(0.0)))


class Joined(LazyTensors):
    """The weights of several models, joined tensor by tensor when they are asked for.

    Costs one tensor of each model and the joined one in memory. The last one is kept, for it may be stored in parts.
    All cores read and join; the result does not depend on their number.
    """

    def __init__(self, models: Sequence[Mapping[str, Tensor]], method: Mean | Ties) -> None:
        super().__init__(models[0])
        self._models, self._method = models, method
        self._threads = ThreadPoolExecutor(cores())
        self._last: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._last:
            self._last.clear()
            self._last[name] = self._joined(list(self._threads.map(lambda model: model[name], self._models)))
        return self._last[name]

    def _joined(self, tensors: Sequence[Tensor]) -> Tensor:
        flat = [tensor.reshape(-1) for tensor in tensors]
        result, threads = torch.empty(flat[0].shape), cores()

        def join(first: int) -> None:
            for place in range(first * BLOCK, len(result), threads * BLOCK):
                block = slice(place, place + BLOCK)
                result[block] = self._method.join([values[block] for values in flat])

        list(self._threads.map(join, range(threads)))
        return result.view(tensors[0].shape)


def thresholds(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], density: float
) -> tuple[float, ...]:
    """The smallest magnitude, of each model, among the ``density`` of its changes from the base that are largest.

    Exact over all weights of a model together, as in the paper; reads every model twice, a tensor at a time. Magnitudes
    are counted by their bits, whose order is that of float32 numbers.
    """
    if density == 1:
        return (0.0,) * len(models)
    first = _counted(base, models, None)
    keep = max(1, math.ceil(density * int(first[0].sum())))
    high = [_bin_of_rank(counts, keep) for counts in first]
    second = _counted(base, models, [bin for bin, _ in high])
    low = [_bin_of_rank(counts, left) for counts, (_, left) in zip(second, high, strict=True)]
    bits = [top << LOW_BITS | rest for (top, _), (rest, _) in zip(high, low, strict=True)]
    return tuple(torch.tensor(bits, dtype=torch.int32).view(torch.float32).tolist())


def _counted(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], high: list[int] | None
) -> list[Tensor]:
    """Of each model how many changes have which high bits; with ``high`` which low bits those with these high ones."""
    bins = 2 ** (LOW_BITS if high else 31 - LOW_BITS)
    counts = [torch.zeros(bins, dtype=torch.int64) for _ in models]
    for name in base:
        start = base[name].reshape(-1)
        for place, model in enumerate(models):
            values = model[name].reshape(-1)
            for begin in range(0, len(values), 16 * BLOCK):
                block = slice(begin, begin + 16 * BLOCK)
                bits = (values[block] - start[block]).abs_().view(torch.int32)
                if high:
                    bits = bits[bits >> LOW_BITS == high[place]] & (2**LOW_BITS - 1)
                else:
                    bits >>= LOW_BITS
                counts[place] += torch.bincount(bits, minlength=bins)
    return counts


def _bin_of_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of the ``rank``-th largest value, 1 being the largest, and its rank among those of that bin."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before
