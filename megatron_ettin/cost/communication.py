"""What one rank hands to collectives and neighbours in a step: how often, how many bytes, and what for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from megatron_ettin.config.objective import OBJECTIVES, kinds_of
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import is_global, vocabulary_rows
from megatron_ettin.cost.count import label_share
from megatron_ettin.cost.memory import GRADIENT_BYTES, WEIGHT_BYTES, rank_parameters
from megatron_ettin.cost.placement import micro_batch_count, own_layers

Kind = Literal["tensor", "pipeline", "context", "data", "tied"]
Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "send"]

LABEL_REDUCTIONS = 3
"""Maximum, label's logit and sum of exponentials, in fp32, for each label under tensor parallelism."""
REDUCTION_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Message:
    """Some equal messages of a step. A gather or scatter counts with the size of the whole tensor."""

    kind: Kind
    operation: Operation
    count: int
    bytes: float
    """Of one message."""


@dataclass(frozen=True)
class Place:
    """A rank's place in the layout."""

    pipeline: int = 0
    context: int = 0
    labels: float | None = None
    """Labels of a micro-batch on the rank; None: what the objective's share gives."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one rank and step by purpose, forward and backward together."""

    tensor: int
    """Layer outputs, the embedding and the head, among the tensor ranks."""
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


def traffic(config: RunConfig, device: int = 0) -> Traffic:
    """What a rank of a pipeline stage, in the middle of the context ranks, exchanges in a full step."""
    place = Place(pipeline=device, context=config.layout.context // 2)
    totals: Counter[str] = Counter()
    for message in messages(config, place):
        totals[message.kind] += round(message.count * message.bytes)
    return Traffic(**{item.name: totals[item.name] for item in fields(Traffic)})


def messages(config: RunConfig, place: Place) -> list[Message]:
    """Every message of a full step that grows with the model or the batch; a few bytes of bookkeeping are left out."""
    return [*tensor(config, place), *pipeline(config, place), *context(config, place), *gradients(config, place)]


def hidden_bytes(config: RunConfig) -> int:
    """Bytes of one layer output of a micro-batch on one context rank."""
    tokens = config.layout.micro_batch_rows * config.data.row_length // config.layout.context
    return tokens * config.model.hidden * WEIGHT_BYTES[config.compute.precision]


def tensor(config: RunConfig, place: Place) -> Iterator[Message]:
    """Reductions of layer outputs; with sequence parallelism gathers and scatters, and the norms' gradients.

    On the last pipeline stage the gradient of the labels' hidden states, and the three sums of a softmax, too.
    """
    layout = config.layout
    if layout.tensor == 1:
        return
    micro, whole = micro_batch_count(config), hidden_bytes(config)
    layers = len(own_layers(config, place.pipeline))
    first, last = place.pipeline == 0, place.pipeline == layout.pipeline - 1
    again = layout.recompute == "full"
    if layout.sequence_parallel:
        gathers = layers * (8 if again else 6) + first + last
        scatters = layers * (6 if again else 4) + first
        yield Message(kind="tensor", operation="all_gather", count=micro * gathers, bytes=whole)
        yield Message(kind="tensor", operation="reduce_scatter", count=micro * scatters, bytes=whole)
        norms = 2 * layers - first + first + last
        size = norms * config.model.hidden * GRADIENT_BYTES
        yield Message(kind="tensor", operation="all_reduce", count=1, bytes=size)
    else:
        count = micro * (layers * (6 if again else 4) + first)
        yield Message(kind="tensor", operation="all_reduce", count=count, bytes=whole)
    if not last:
        return
    labels = place.labels
    if labels is None:
        share = label_share(OBJECTIVES[config.objective], config.data)
        labels = layout.micro_batch_rows * config.data.row_length * share / layout.context
    query = labels * config.model.hidden * WEIGHT_BYTES[config.compute.precision]
    yield Message(kind="tensor", operation="all_reduce", count=micro, bytes=query)
    sums = labels * REDUCTION_BYTES
    yield Message(kind="tensor", operation="all_reduce", count=micro * LABEL_REDUCTIONS, bytes=sums)


def pipeline(config: RunConfig, place: Place) -> Iterator[Message]:
    """Every stage but the last sends its output, every stage but the first the gradient of its input."""
    layout = config.layout
    if layout.pipeline == 1:
        return
    stages = layout.pipeline * layout.virtual_pipeline
    own = range(place.pipeline, stages, layout.pipeline)
    sends = sum((stage < stages - 1) + (stage > 0) for stage in own)
    shared = layout.tensor if layout.sequence_parallel else 1
    size = hidden_bytes(config) // shared
    yield Message(kind="pipeline", operation="send", count=sends * micro_batch_count(config), bytes=size)


def context(config: RunConfig, place: Place) -> Iterator[Message]:
    """Keys and values, and backward their gradients: whole rows in global layers, the window's edge in local ones."""
    model, layout = config.model, config.layout
    if layout.context == 1:
        return
    micro, again = micro_batch_count(config), layout.recompute == "full"
    token = 2 * model.hidden // layout.tensor * WEIGHT_BYTES[config.compute.precision]
    layers = own_layers(config, place.pipeline)
    whole = sum(is_global(model, layer) for layer in layers)
    stream = layout.micro_batch_rows * config.data.row_length * token
    yield Message(kind="context", operation="all_gather", count=micro * whole * (2 if again else 1), bytes=stream)
    yield Message(kind="context", operation="reduce_scatter", count=micro * whole, bytes=stream)
    # the window's edge of local layers: forward to the neighbours that see it, backward to those it came from
    windows = [
        (model.causal_window, 0) if kind.causal else (model.window, model.window)
        for kind in kinds_of(OBJECTIVES[config.objective])
    ]
    left, right = map(max, zip(*windows, strict=True))
    backward = micro * (len(layers) - whole)
    forward = backward * (2 if again else 1)
    before, after = place.context > 0, place.context < layout.context - 1
    for tokens, count in ((left, forward * after + backward * before), (right, forward * before + backward * after)):
        if tokens and count:
            yield Message(kind="context", operation="send", count=count, bytes=tokens * token)


def gradients(config: RunConfig, place: Place) -> Iterator[Message]:
    """The gradients of all parameters are scattered, the new weights gathered; tied copies add their gradients."""
    layout = config.layout
    count, _ = rank_parameters(config, place.pipeline)
    if max(1, layout.data) * layout.context > 1:
        yield Message(kind="data", operation="reduce_scatter", count=1, bytes=GRADIENT_BYTES * count)
        weights = WEIGHT_BYTES[config.compute.precision] * count
        yield Message(kind="data", operation="all_gather", count=1, bytes=weights)
    if layout.pipeline > 1 and place.pipeline in (0, layout.pipeline - 1):
        table = vocabulary_rows(config.model.vocabulary, layout.tensor) * config.model.hidden
        yield Message(kind="tied", operation="all_reduce", count=1, bytes=GRADIENT_BYTES * table)
