"""Bytes that one rank hands to collectives and neighbours in a step, by kind."""

from __future__ import annotations

from dataclasses import dataclass, fields

from megatron_ettin.config.count import label_share
from megatron_ettin.config.memory import GRADIENT_BYTES, WEIGHT_BYTES, rank_parameters
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.placement import layer_placement, micro_batch_count
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import is_global, padded_vocabulary


@dataclass(frozen=True)
class Traffic:
    """Message sizes of one rank and step in bytes, forward and backward together.

    An all-reduce, gather or scatter counts with the size of the whole tensor, a message with what is sent.
    """

    tensor: int
    """All-reduces (or gathers and scatters) of layer outputs, of the embedding and before the head."""
    pipeline: int
    """Layer outputs and their gradients sent to neighbours."""
    context: int
    """Keys and values: the whole row in global layers, the window's halo in local ones."""
    data: int
    """Gradients reduced and weights gathered by the distributed optimizer."""
    tied: int
    """The embedding's gradient between the first and the last pipeline rank."""

    @property
    def total(self) -> int:
        """All kinds."""
        return sum(getattr(self, item.name) for item in fields(self))


def own_layers(config: RunConfig, device: int) -> list[int]:
    """The layers on one pipeline rank."""
    placement, first = layer_placement(config), 0
    layers: list[int] = []
    for stage, count in enumerate(placement):
        if stage % config.layout.pipeline == device:
            layers += range(first, first + count)
        first += count
    return layers


def hidden_bytes(config: RunConfig) -> int:
    """Bytes of one layer output of a micro-batch on one rank, whole along the tensor ranks."""
    tokens = config.layout.micro_batch_rows * config.data.row_length // config.layout.context
    return tokens * config.model.hidden * WEIGHT_BYTES[config.compute.precision]


def tensor_traffic(config: RunConfig, device: int) -> int:
    """Two reductions a layer in each direction, one for the embedding, one before the head's logits."""
    layout = config.layout
    if layout.tensor == 1:
        return 0
    count = 4 * len(own_layers(config, device)) * hidden_bytes(config)
    if device == 0:
        count += hidden_bytes(config)
    if device == layout.pipeline - 1:
        share = label_share(OBJECTIVES[config.objective], config.data)
        count += round(hidden_bytes(config) * share)
    return count * micro_batch_count(config)


def pipeline_traffic(config: RunConfig, device: int) -> int:
    """Every stage but the last sends its output, every stage but the first the gradient of its input."""
    layout = config.layout
    if layout.pipeline == 1:
        return 0
    stages = layout.pipeline * layout.virtual_pipeline
    own = range(device, stages, layout.pipeline)
    sends = sum((stage < stages - 1) + (stage > 0) for stage in own)
    shared = layout.tensor if layout.sequence_parallel else 1
    return sends * hidden_bytes(config) // shared * micro_batch_count(config)


def context_traffic(config: RunConfig, device: int) -> int:
    """Keys and values forward and their gradients backward."""
    model, layout = config.model, config.layout
    if layout.context == 1:
        return 0
    objective = OBJECTIVES[config.objective]
    token = 2 * model.hidden // layout.tensor * WEIGHT_BYTES[config.compute.precision]
    halo = model.causal_window if objective.causal else 2 * model.window
    rows = layout.micro_batch_rows
    wide = sum(is_global(model, layer) for layer in own_layers(config, device))
    narrow = len(own_layers(config, device)) - wide
    tokens = rows * (wide * config.data.row_length + narrow * halo)
    return 2 * tokens * token * micro_batch_count(config)


def traffic(config: RunConfig, device: int = 0) -> Traffic:
    """What a rank at one place of the pipeline exchanges in a full step."""
    layout = config.layout
    count, _ = rank_parameters(config, device)
    sharing = max(1, layout.data) * layout.context
    ends = layout.pipeline > 1 and device in (0, layout.pipeline - 1)
    table = padded_vocabulary(config.model.vocabulary) // layout.tensor * config.model.hidden
    return Traffic(
        tensor=tensor_traffic(config, device),
        pipeline=pipeline_traffic(config, device),
        context=context_traffic(config, device),
        data=(GRADIENT_BYTES + WEIGHT_BYTES[config.compute.precision]) * count if sharing > 1 else 0,
        tied=GRADIENT_BYTES * table if ends else 0,
    )
