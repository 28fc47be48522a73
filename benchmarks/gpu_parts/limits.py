"""What a step could reach at most: the time of an ideally fused list of kernels, and the published rates to beat."""

# H hidden, I intermediate, V vocabulary; FLOPs, bytes and seconds are for one token

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.shapes import global_layers
from megatron_ettin.cost.count import attention_pairs, pair_flops
from megatron_ettin.cost.step_time import BACKWARD_PAIRS

PUBLISHED_H100 = {"17m": 985e3, "32m": 655e3, "68m": 463e3, "150m": 296e3, "400m": 146e3, "1b": 64e3}
"""Tokens a second and GPU of the models' own training (4 H100; rows of 1,024 for 85 % of it, then 8,192)."""
LIMIT_H200 = {"17m": 9.8e6, "32m": 4.5e6, "68m": 1.7e6, "150m": 794e3, "400m": 298e3, "1b": 119e3}
"""The kernel roofline of an encoder with rows of 1,024 at the ceilings measured on one H200."""
ROOFLINE_H100 = {
    1024: {"17m": 9.171e6, "32m": 4.622e6, "68m": 1.869e6, "150m": 898e3, "400m": 346e3, "1b": 142e3},
    8192: {"17m": 5.349e6, "32m": 2.687e6, "68m": 1.113e6, "150m": 576e3, "400m": 255e3, "1b": 113e3},
}
"""The same for an H100's datasheet, calculated apart from `roofline`, by tokens of a row."""

NUMBER = 2
"""Bytes of a bf16 number."""
AMORTIZED_TOKENS = 131_072
"""Tokens of a pass, over which reading the weights is spread."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine reaches at best."""

    flops: float
    """Matrix products in bf16, FLOP/s."""
    bandwidth: float
    """Bytes/s between memory and chip, reads and writes together."""


H100 = Ceilings(flops=989.4e12, bandwidth=3.35e12)
H200 = Ceilings(flops=989.4e12, bandwidth=4.8e12)


@dataclass(frozen=True)
class Kernel:
    """One ideal kernel: FLOPs and bytes for each token."""

    flops: float
    bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """The longer of computing and moving."""
        return max(self.flops / ceilings.flops, self.bytes / ceilings.bandwidth)


def roofline(
    model: ModelConfig, causal: bool, lengths: Sequence[int], label_share: float, ceilings: Ceilings
) -> float:
    """Tokens a second that no list of separate kernels exceeds: each at its own ceiling, nothing between them.

    `lengths` of the pieces, which see nothing of each other.

    Every product moves its operands once, GELU is part of the products, scores and logits are never written, weights
    are read once for 131,072 tokens, the optimizer is free.
    """
    kernels = (*layer(model), *attention(model, causal, lengths), *head(model, label_share))
    return 1.0 / sum(kernel.seconds(ceilings) for kernel in kernels)


def product(inputs: int, outputs: int, share: float = 1.0) -> Iterator[Kernel]:
    """A matrix product and the two of its backward pass, on a share of the tokens."""
    weights = NUMBER * inputs * outputs / AMORTIZED_TOKENS
    for _ in range(3):
        yield Kernel(2.0 * inputs * outputs * share, NUMBER * (inputs + outputs) * share + weights)


def pointwise(numbers: int) -> Kernel:
    """Something that moves so many numbers and computes next to nothing."""
    return Kernel(0.0, NUMBER * numbers)


def layer(model: ModelConfig) -> Iterator[Kernel]:
    """Products, norms, rotary embedding and residual sums of all layers."""
    hidden, inner = model.hidden, model.intermediate
    for _ in range(model.layers):
        yield from product(hidden, 3 * hidden)
        yield from product(hidden, hidden)
        yield from product(hidden, 2 * inner)
        yield from product(inner, hidden)
        for _ in range(2):
            yield pointwise(2 * hidden)  # norm
            yield pointwise(3 * hidden)  # its gradient
            yield pointwise(3 * hidden)  # residual sum
            yield pointwise(4 * hidden)  # rotary embedding: forward, then backward


def attention(model: ModelConfig, causal: bool, lengths: Sequence[int]) -> Iterator[Kernel]:
    """Flash attention, forward and backward, of global and local layers."""
    window = model.causal_window if causal else model.window
    wide = global_layers(model)
    for reach, layers in ((None, wide), (window, model.layers - wide)):
        pairs = sum(attention_pairs(length, causal, reach) for length in lengths)
        flops = pairs / sum(lengths) * pair_flops(model)
        for _ in range(layers):
            yield Kernel(flops, NUMBER * 4 * model.hidden)
            yield Kernel(BACKWARD_PAIRS * flops, NUMBER * 8 * model.hidden)


def head(model: ModelConfig, label_share: float) -> Iterator[Kernel]:
    """The dense layer and the vocabulary, whose logits stay on the chip."""
    yield from product(model.hidden, model.hidden, label_share)
    flops = 2.0 * model.hidden * model.vocabulary * label_share
    weights = NUMBER * model.hidden * model.vocabulary / AMORTIZED_TOKENS
    for _ in range(3):
        yield Kernel(flops, NUMBER * model.hidden * label_share + weights)
