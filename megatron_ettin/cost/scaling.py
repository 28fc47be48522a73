"""Modelled time of a step on many GPUs: kernels, what messages add where nothing hides them, and ranks without rows.

Nothing here has been measured on a GPU. Stragglers, other jobs' traffic, reading text and checkpoints are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.overlapping import overlaps
from megatron_ettin.config.run import BatchConfig, LayoutConfig, RunConfig
from megatron_ettin.config.shapes import tensor_sizes
from megatron_ettin.config.sharing import sharing_at
from megatron_ettin.cost.buckets import buckets
from megatron_ettin.cost.communication import Message, Place, messages
from megatron_ettin.cost.fit import fitted, largest_micro_batch, with_micro_batch
from megatron_ettin.cost.hardware import Cluster
from megatron_ettin.cost.memory import GRADIENT_BYTES, WEIGHT_BYTES, rank_parameters
from megatron_ettin.cost.placement import timeline
from megatron_ettin.cost.step_time import micro_batch_time, optimizer_time
from megatron_ettin.schedule import batch_schedule

NOTABLE = 0.02
"""A smaller share of a step limits nothing."""
CONTEXT_SIZES, PIPELINE_SIZES = (1, 2, 4), (1, 2)
"""What is tried beside every tensor size of the model within a node."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step on its busiest rank, one after the other."""

    kernels: float
    """Its micro-batches, and the update of its share of the weights."""
    waiting: float
    """In the pipeline."""
    shared: float
    """Messages within the model: among tensor, context and pipeline ranks. Nothing hides them."""
    exposed: float
    """Gradients and weights on their way between data ranks while nothing is computed."""
    idle: float
    """Share of the data ranks' time in the step that goes without rows."""
    launching: float
    """Share of a micro-batch in which the GPU waits for the host."""

    @property
    def total(self) -> float:
        """The step."""
        return self.kernels + self.waiting + self.shared + self.exposed

    @property
    def losses(self) -> dict[str, float]:
        """Shares of the step in which a GPU is kept from computing, by what keeps it."""
        parts = {"pipeline": self.waiting, "messages in the model": self.shared, "gradients": self.exposed}
        shares = {name: part / self.total for name, part in parts.items()}
        return shares | {"launches": self.launching * self.kernels / self.total, "no rows": self.idle}

    @property
    def limit(self) -> str:
        """What is lost most to, with its share; the kernels where nothing costs more than NOTABLE."""
        name, most = max(self.losses.items(), key=lambda item: item[1])
        return f"{name} {most:.1%}" if most > NOTABLE else "kernels"


def step_time(config: RunConfig, cluster: Cluster, rows: int | None = None) -> StepTime:
    """The time of a step of ``rows`` rows; unset: of a full one."""
    shared = sharing_at(config, rows or config.batch.rows)
    layout = replace(config.layout, micro_batch_rows=shared.size)
    config = replace(config, layout=layout, batch=BatchConfig(rows=shared.rows))
    once = micro_batch_time(config, cluster)
    work = shared.most * once.total / layout.pipeline
    count, _ = rank_parameters(config, 0)
    bubble = timeline(config).bubble if layout.pipeline > 1 else 0.0
    sent = [message for message in messages(config, Place(context=layout.context // 2)) if message.kind != "data"]
    return StepTime(
        kernels=work + optimizer_time(count, shared.ranks * layout.context, cluster),
        waiting=work * bubble / (1.0 - bubble),
        shared=sum(_seconds(message, layout, cluster) for message in sent),
        exposed=_exposed(config, cluster, once.forward / layout.pipeline, once.backward / layout.pipeline),
        idle=shared.idle,
        launching=once.launching,
    )


def efficiency(config: RunConfig, cluster: Cluster, *, stage: bool = False) -> float:
    """Tokens a GPU and second over those of one GPU that takes the same steps alone: full steps, or the whole stage."""
    gpus = model_ranks(config.layout) * config.layout.data
    kept = LayoutConfig(data=1, micro_batch_rows=config.layout.micro_batch_rows, recompute=config.layout.recompute)
    alone = replace(config, layout=kept)
    if stage:
        return stage_seconds(alone, cluster) / (gpus * stage_seconds(config, cluster))
    return step_time(alone, cluster).total / (gpus * step_time(config, cluster).total)


def stage_seconds(config: RunConfig, cluster: Cluster) -> float:
    """All steps of the stage, those of the growing batch included."""
    table = batch_schedule(config.batch, config.data.row_length).table
    total = config.schedule.tokens / config.data.row_length
    firsts = [*(min(first, total) for first, _ in table), total]
    return sum(
        (last - first) / size * step_time(config, cluster, size).total
        for (_, size), first, last in zip(table, firsts, firsts[1:], strict=False)
    )


def layouts(config: RunConfig, gpus: int, cluster: Cluster) -> Iterator[RunConfig]:
    """The run under every layout of that many GPUs that memory holds, with every micro-batch up to the largest."""
    sizes = [size for size in range(1, config.batch.rows + 1) if config.batch.rows % size == 0]
    for tensor, context, pipeline in product(tensor_sizes(config.model), CONTEXT_SIZES, PIPELINE_SIZES):
        data, over = divmod(gpus, tensor * context * pipeline)
        if over or not data or tensor * context > cluster.node:
            continue
        layout = LayoutConfig(
            tensor=tensor, context=context, pipeline=pipeline, data=data, sequence_parallel=tensor > 1,
        )  # fmt: skip
        shared = replace(config, layout=layout)
        most = largest_micro_batch(shared, cluster.card)
        yield from (with_micro_batch(shared, size) for size in sizes if size <= most)


def fastest(candidates: Sequence[RunConfig], cluster: Cluster) -> RunConfig:
    """The layout of the shortest full step."""
    return min(candidates, key=lambda run: step_time(run, cluster).total)


def on_gpus(config: RunConfig, gpus: int, cluster: Cluster) -> RunConfig:
    """The run as that many GPUs take it: data ranks, and micro-batches that fit if none is given."""
    data = gpus // model_ranks(config.layout)
    return fitted(replace(config, layout=replace(config.layout, data=data)), cluster.card)


def layout_name(layout: LayoutConfig) -> str:
    """The layout in a few words: "tensor 2 x data 32"; sizes of 1 are left out."""
    sizes = (("tensor", layout.tensor), ("pipeline", layout.pipeline), ("context", layout.context))
    words = [f"{name} {size}" for name, size in sizes if size > 1]
    return " x ".join([*words, f"data {layout.data}"])


def _exposed(config: RunConfig, cluster: Cluster, forward: float, backward: float) -> float:
    """Seconds of reduce-scatter and all-gather that neither pass hides.

    With overlap a bucket of gradients goes out as soon as the backward pass has filled it, and one of weights comes in
    while those before it compute: the bucket of the embedding, last of the one and first of the other, has nobody to
    hide behind.
    """
    layout = config.layout
    ranks = max(1, layout.data) * layout.context
    if ranks == 1:
        return 0.0
    width = WEIGHT_BYTES[config.compute.precision]
    *earlier, last = map(sum, buckets(config, ranks))

    def ring(count: int, size: int) -> float:
        return _ring(size * count, ranks, max(1, cluster.node // layout.tensor), cluster)

    if not overlaps(config, "cuda"):
        return ring(sum(earlier) + last, GRADIENT_BYTES) + ring(sum(earlier) + last, width)
    hidden = sum(ring(count, GRADIENT_BYTES) for count in earlier), sum(ring(count, width) for count in earlier)
    late = max(0.0, hidden[0] - backward) + max(0.0, hidden[1] - forward)
    return ring(last, GRADIENT_BYTES) + ring(last, width) + late


def _ring(size: float, ranks: int, of_a_node: int, cluster: Cluster) -> float:
    """Seconds to scatter or gather ``size`` bytes among ranks of which a node holds so many, along rings.

    A node has as many rings as the ranks in it, each through an adapter of its own.
    """
    nodes = -(-ranks // of_a_node)
    rate = cluster.inside if nodes == 1 else min(cluster.inside, of_a_node * cluster.across)
    hops = (ranks - nodes) * cluster.hop_inside + (nodes if nodes > 1 else 0) * cluster.hop_across
    return size * (ranks - 1) / ranks / rate + hops


def _seconds(message: Message, layout: LayoutConfig, cluster: Cluster) -> float:
    """Of all equal messages within the model."""
    ranks = {"tensor": layout.tensor, "context": layout.context}.get(message.kind, 2)
    within = message.kind in ("tensor", "context") or model_ranks(layout) * max(1, layout.data) <= cluster.node
    if message.operation == "send":
        rate, hop = (cluster.inside, cluster.hop_inside) if within else (cluster.across, cluster.hop_across)
        return message.count * (message.bytes / rate + hop)
    once = _ring(message.bytes, ranks, ranks if within else 1, cluster)
    return message.count * once * (2 if message.operation == "all_reduce" else 1)
