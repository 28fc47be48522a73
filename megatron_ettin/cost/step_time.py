"""Modelled time of a micro-batch on one GPU: every kernel at the rate of its products or of the memory it moves.

The kernels are the own ones, or with compute.kernels=torch those of torch.compile, and FlashAttention 2 in bf16.
Nothing here has been measured.
"""

# T tokens, L labels, H hidden, I intermediate, V vocabulary rows, all of one rank; bf16 numbers take two bytes

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import global_layers, vocabulary_rows
from megatron_ettin.cost.count import FLOPS_PER_MULTIPLY, attention_pairs, label_share, pair_flops
from megatron_ettin.cost.hardware import Cluster
from megatron_ettin.cost.logits import keeps_logits, seconds_with_logits, seconds_without_logits
from megatron_ettin.cost.memory import LOSS_CHUNK_BYTES

BF16 = 2
BACKWARD_PAIRS = 2.5
"""FLOPs of a backward pass of attention over those of its forward pass: the scores are computed again."""
GRADIENT_BYTES = 10
"""For each weight of a matrix: its gradient read in bf16, added to fp32."""


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """Numbers that kernels between the products read and write for each channel of a token, in units of H."""

    rotary: tuple[int, int]
    """Of queries and keys: forward, and backward beside the copy that puts three gradients side by side."""
    norms: tuple[int, int]
    """Both norms of a layer, both sums with the residual and the dropout: forward, backward."""
    vocabulary_sweeps: int
    """Passes over the logits."""


OWN = Pointwise(rotary=(4, 0), norms=(8, 9), vocabulary_sweeps=3)
"""Queries and keys once, backward during the copy; sum and norm in one kernel; statistics of logits in one reading,
gradients in one and a writing."""
COMPILED = Pointwise(rotary=(16, 16), norms=(10, 12), vocabulary_sweeps=5)
"""Queries, keys and values are copied; sum and norm are kernels of their own; two readings, then three passes."""
LAUNCHES_PER_LAYER, LAUNCHES_OUTSIDE = 50, 20
"""Kernels of a forward and a backward pass."""
OPTIMIZER_BYTES = 46
"""For each weight of a rank's own share: gradient, both moments twice, main weight, new weight."""
BUFFER_BYTES = 16
"""For each weight of a rank: its fp32 gradient is set to zero, scaled and read for the norm."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Seconds of one micro-batch through the whole model."""

    forward: float
    backward: float
    launching: float
    """Share of the time in which the GPU waits for the host to launch the next kernel."""

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


def micro_batch_time(config: RunConfig, cluster: Cluster) -> MicroBatch:
    """The time of one micro-batch on the tensor and context ranks that share it; messages between them apart."""
    model, layout = config.model, config.layout
    tokens = layout.micro_batch_rows * config.data.row_length / layout.context
    labels = tokens * label_share(OBJECTIVES[config.objective], config.data)
    whole = global_layers(model)
    ends, near, far = (
        _outside(config, cluster, tokens, labels), _layer(config, cluster, tokens, False),
        _layer(config, cluster, tokens, True),
    )  # fmt: skip
    forward, backward = (
        end + (model.layers - whole) * local + whole * everywhere
        for end, local, everywhere in zip(ends, near, far, strict=True)
    )
    again = 1.0 if layout.recompute == "full" else 0.0
    launches = LAUNCHES_PER_LAYER * model.layers + LAUNCHES_OUTSIDE
    slower = max(1.0, launches * cluster.launch / (forward + backward))
    return MicroBatch(
        forward=slower * forward, backward=slower * (backward + again * forward), launching=1.0 - 1.0 / slower
    )


def pointwise(config: RunConfig) -> Pointwise:
    """What the run's kernels move."""
    return OWN if config.compute.kernels == "auto" else COMPILED


def optimizer_time(count: int, ranks: int, cluster: Cluster) -> float:
    """Of a step: ``count`` weights on a rank, whose update ``ranks`` share."""
    return (OPTIMIZER_BYTES * count / ranks + BUFFER_BYTES * count) / cluster.memory


def _product(cluster: Cluster, rows: float, inner: float, outer: float) -> tuple[float, float]:
    """Forward and backward of [rows, inner] x [inner, outer]; backward is two products and the sum of the gradient."""
    size = FLOPS_PER_MULTIPLY * rows * inner * outer / cluster.matrix
    moved = BF16 * (rows * inner + rows * outer + inner * outer) / cluster.memory
    once = max(size, moved)
    return once, 2 * once + GRADIENT_BYTES * inner * outer / cluster.memory


def _layer(config: RunConfig, cluster: Cluster, tokens: float, everywhere: bool) -> tuple[float, float]:
    """Forward and backward of one layer, whose attention is global or local."""
    model, tensor = config.model, config.layout.tensor
    h, i = model.hidden, model.intermediate / tensor
    own = h / tensor
    products = [
        _product(cluster, tokens, h, 3 * own), _product(cluster, tokens, own, h),
        _product(cluster, tokens, h, 2 * i), _product(cluster, tokens, i, h),
    ]  # fmt: skip
    causal = OBJECTIVES[config.objective].causal
    window = None if everywhere else (model.causal_window if causal else model.window)
    length = config.data.piece_length
    pairs = attention_pairs(length, causal, window) / length * pair_flops(model) * tokens / tensor
    if causal and everywhere:  # of the ranks that share a row the last one sees all of it
        sharing = max(1.0, config.layout.context / config.layout.micro_batch_rows)
        pairs *= (2 * sharing - 1) / sharing
    forward_rate, backward_rate = cluster.attention
    # attention reads Q, K, V and writes one; its backward pass reads five and writes three, which a copy puts side by
    # side; the gate moves both halves and their product
    moved, along = pointwise(config), h / tensor if config.layout.sequence_parallel else h
    forward_bytes = BF16 * tokens * (moved.norms[0] * along + (moved.rotary[0] + 4) * own + 3 * i)
    backward_bytes = BF16 * tokens * (moved.norms[1] * along + (moved.rotary[1] + 8 + 6) * own + 5 * i)
    return (
        sum(forward for forward, _ in products) + pairs / forward_rate + forward_bytes / cluster.memory,
        sum(backward for _, backward in products)
        + BACKWARD_PAIRS * pairs / backward_rate
        + backward_bytes / cluster.memory,
    )


def _outside(config: RunConfig, cluster: Cluster, tokens: float, labels: float) -> tuple[float, float]:
    """Forward and backward of embedding, head and loss; the gradients of logits are made in the forward pass."""
    model = config.model
    h, rows = model.hidden, vocabulary_rows(model.vocabulary, config.layout.tensor)
    dense = _product(cluster, labels, h, h)
    own = config.compute.kernels == "auto" and config.compute.precision != "fp32"
    if own and not keeps_logits(h, cluster):
        logit = seconds_without_logits(h, cluster)
    else:
        logit = seconds_with_logits(h, cluster, pointwise(config).vocabulary_sweeps)
    chunks = labels * rows * 4 / (config.compute.loss_chunk_bytes or LOSS_CHUNK_BYTES)
    weights = (GRADIENT_BYTES + max(0.0, chunks - 1) * 8) * rows * h
    ends = BF16 * h * (4 * tokens + 6 * labels)
    return (
        dense[0] + labels * rows * logit + (weights + ends) / cluster.memory,
        dense[1] + ends / cluster.memory,
    )
