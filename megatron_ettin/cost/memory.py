"""Bytes that one rank holds while training, by kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from megatron_ettin.config.freezing import frozen_weights
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import vocabulary_rows
from megatron_ettin.config.weights import weights
from megatron_ettin.cost.count import largest_label_share, layer_parameters
from megatron_ettin.cost.placement import layer_placement, micro_batch_count, own_layers
from megatron_ettin.cost.simulator import in_flight, schedule

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp8": 2}
FP8_COPIES_BYTES = 2
"""An fp8 copy of each matrix of the layers, and its transpose."""
MAIN_WEIGHT_BYTES = {"fp32": 0, "bf16": 4, "fp8": 4}
"""fp32 weights of the optimizer's share; with fp32 weights they are the weights themselves."""
MOMENT_BYTES = 8
GRADIENT_BYTES = 4
"""Gradients are accumulated in fp32."""
DROPOUT_MASK_BYTES = 1
LOSS_CHUNK_BYTES = 2**30
"""Logits in fp32 that a chunk has at most on an accelerator when no bound is set.

Every chunk reads and writes the whole gradient of the vocabulary: few large ones cost less."""
LOSS_COPIES = 2
"""Copies of a chunk in fp32 that the passes over the logits make by torch's operations, where they are not compiled."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer: int
    """Main weights, and moments of what is not frozen, shared among the data and context ranks."""
    activations: int
    """What the forward passes in flight keep for their backward passes."""
    logits: int
    """Logits, which become their gradient, or gradients alone, one chunk at a time; copies that are made of them; the
    vocabulary's gradient in fp32 while several chunks are added up."""

    @property
    def total(self) -> int:
        """All kinds; the framework's own needs (1 to 2 GiB on a GPU) are not counted."""
        return sum(getattr(self, item.name) for item in fields(self))


def rank_parameters(config: RunConfig, device: int) -> tuple[int, int]:
    """Parameters on one pipeline rank after tensor sharding: (all, those in matrices of layers)."""
    model, layout = config.model, config.layout
    whole = 4 * model.hidden**2 + 3 * model.hidden * model.intermediate
    own = own_layers(config, device)
    matrices = len(own) * (whole // layout.tensor)
    norms = sum(layer_parameters(model, layer) - whole for layer in own)
    rows = vocabulary_rows(model.vocabulary, layout.tensor)
    first, last = device == 0, device == layout.pipeline - 1
    ends = rows * model.hidden + model.hidden if first else 0
    if last:  # the last norm, the head, and the table again where the output is tied to another rank's
        ends += model.hidden + model.hidden**2 + model.hidden + rows + (0 if first else rows * model.hidden)
    return matrices + norms + ends, matrices


def frozen_parameters(config: RunConfig, device: int) -> int:
    """Of ``rank_parameters``, those that stay as they are."""
    stay, own = frozen_weights(config.model, config.optimizer.freeze), own_layers(config, device)
    rows, tensor = vocabulary_rows(config.model.vocabulary, config.layout.tensor), config.layout.tensor
    ends = {"embedding.weight": device in (0, config.layout.pipeline - 1), "embedding_norm.weight": device == 0}
    count = 0
    for weight in weights(config.model):
        if weight.name in stay and (weight.layer in own or ends.get(weight.row, False)):
            shape = (rows, *weight.shape[1:]) if weight.split == "vocabulary" else weight.shape
            count += math.prod(shape) // (1 if weight.split in ("copied", "vocabulary") else tensor)
    return count


def activations(config: RunConfig, device: int) -> int:
    """Bytes kept by the passes in flight on one pipeline rank.

    A layer keeps per token, whole on each tensor rank unless sequence parallel, both norms' inputs and outputs, and
    with torch's kernels the dropout mask; shared among the tensor ranks Q, K, V, the attention output, both halves of
    the MLP, the activated half and the product.
    """
    model, layout = config.model, config.layout
    tokens = layout.micro_batch_rows * config.data.row_length // layout.context
    width = WEIGHT_BYTES[config.compute.precision]
    norms_share = layout.tensor if layout.sequence_parallel else 1
    mask = DROPOUT_MASK_BYTES if model.output_dropout and config.compute.kernels == "torch" else 0
    norms = model.hidden * (4 * width + mask) // norms_share
    layer = norms + (4 * model.hidden + 4 * model.intermediate) * width // layout.tensor
    boundary = model.hidden * width // norms_share
    chunks = layer_placement(config)[device :: layout.pipeline]
    passes = 1
    if layout.pipeline > 1:
        passes = in_flight(schedule(device, layout.pipeline, layout.virtual_pipeline, micro_batch_count(config)))
    layers = passes * sum(chunks) / len(chunks)
    if layout.recompute == "full":
        return round(tokens * (layers * boundary + layer))
    return round(tokens * layers * layer)


def logits(config: RunConfig, device: int) -> int:
    """Bytes of one chunk of logits, of its copies in fp32 and of the sum over chunks, on the last pipeline rank."""
    layout = config.layout
    if device != layout.pipeline - 1:
        return 0
    share = largest_label_share(OBJECTIVES[config.objective], config.data)
    labels = layout.micro_batch_rows * config.data.row_length * share / layout.context
    rows = vocabulary_rows(config.model.vocabulary, layout.tensor)
    whole = round(labels * rows * 4)
    chunk = min(whole, config.compute.loss_chunk_bytes or LOSS_CHUNK_BYTES)
    copies = LOSS_COPIES if config.compute.kernels == "torch" and not config.compute.compile else 0
    added_up = GRADIENT_BYTES * rows * config.model.hidden if whole > chunk else 0
    return chunk * WEIGHT_BYTES[config.compute.precision] // 4 + copies * chunk + added_up


def memory(config: RunConfig, device: int = 0) -> Memory:
    """Bytes of a rank at one place of the pipeline; an open data size counts as one rank."""
    layout, precision = config.layout, config.compute.precision
    count, matrices = rank_parameters(config, device)
    learning, sharing = count - frozen_parameters(config, device), max(1, layout.data) * layout.context
    copies = FP8_COPIES_BYTES * matrices if precision == "fp8" else 0
    return Memory(
        weights=WEIGHT_BYTES[precision] * count + copies,
        gradients=GRADIENT_BYTES * count,
        optimizer=MAIN_WEIGHT_BYTES[precision] * -(-count // sharing) + MOMENT_BYTES * -(-learning // sharing),
        activations=activations(config, device),
        logits=logits(config, device),
    )


def heaviest(config: RunConfig) -> tuple[int, Memory]:
    """The pipeline rank that holds most, and what it holds."""
    ranks = [(device, memory(config, device)) for device in range(config.layout.pipeline)]
    return max(ranks, key=lambda item: item[1].total)
