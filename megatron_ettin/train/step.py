"""One optimizer step: the only place that knows both a batch and a model."""

# L labels, R rows of this data rank's micro-batches, B rows of one of them

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.utils import get_model_config
from numpy.typing import NDArray
from torch import Tensor

from megatron_ettin.batch import DIGEST_MODULUS, Batch, empty_batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import ModelConfig, RunConfig
from megatron_ettin.config.sharing import sharing_at
from megatron_ettin.cost.count import flops
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.device import to_device
from megatron_ettin.parallel.seeds import derive
from megatron_ettin.train.guard import Verdict, accepting_finite
from megatron_ettin.train.parts import Parts
from megatron_ettin.train.totals import Local, Totals, add_up
from megatron_ettin.train.worst_rows import worst_rows


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gave, equal on every rank."""

    totals: Totals
    """Its numbers."""
    verdict: Verdict
    """Whether the weights were updated, and if not, why."""


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What this rank wants the others to know after the step."""

    stop: int = 0
    """Number of the signal it received; 0: none."""
    save: bool = False
    """Its clock asks for a checkpoint."""
    saved: bool = False
    """Its save in the background is over."""


def train_step(
    parts: Parts,
    batches: Sequence[Batch],
    *,
    step: int,
    rate: float,
    asks: Asks,
    judge: Callable[[Totals], Verdict] = accepting_finite,
) -> StepResult:
    """One optimizer step on this data rank's micro-batches; the gradient is that of sum(loss) / (labels of all ranks).

    The host waits for the device once, for the numbers by which ``judge`` decides whether the update is applied; and
    once more after bad ones, to name their rows.
    """
    objective = OBJECTIVES[parts.config.objective]
    for chunk in parts.chunks:
        chunk.zero_grad_buffer()
    sums_R2 = forward_backward(parts, batches, step=step)
    parts.optimizer.gather_gradients()
    read = [batch for batch in batches if not batch.empty]
    totals = add_up(
        Local(
            source_sums=sums_by(sums_R2, [batch.sources_B for batch in batches], parts.sources),
            kind_sums=sums_by(sums_R2, kinds_of_rows(batches), len(objective.row_kinds)),
            square_norm=parts.optimizer.square_norm(),
            tokens=sum(batch.tokens for batch in read),
            flops=sum(training_flops(parts.config.model, batch, causal=objective.causal) for batch in read),
            digest=sum(batch.digest() for batch in read) % DIGEST_MODULUS,
            stop=asks.stop,
            save=asks.save,
            saved=asks.saved,
        ),
        parts.groups,
    )
    verdict = judge(totals)
    if verdict.kind in ("spike", "not finite"):
        verdict = replace(verdict, rows=worst_rows(sums_R2, batches, parts.groups))
    if verdict.accepted:
        parts.optimizer.apply(rate)
    return StepResult(totals=totals, verdict=verdict)


def held_out_sums(parts: Parts, batches: Sequence[Batch]) -> tuple[float, float]:
    """Sum of the losses of the labels of ``batches``, in nats, and number of labels, equal on every rank.

    Every data rank takes a contiguous part, and empty micro-batches where it has too few: with overlap the ranks still
    gather the weights in it. The result depends on the layout by rounding only.
    """
    config, data = parts.config, parts.groups.data
    shared = replace(sharing_at(config, config.batch.rows), rows=len(batches), size=1, ranks=data.size)
    mine = [batches[first] for first, _ in shared.bounds(data.rank)]
    empty = empty_batch(batches[0].rows, batches[0].row_length, 0)
    mine += [empty] * (shared.count(data.rank) - len(mine))
    for chunk in parts.chunks:
        chunk.eval()
    with torch.no_grad():
        sums = forward_backward(parts, mine, step=0, forward_only=True).sum(dim=0)
    for chunk in parts.chunks:
        chunk.train()
    sums *= float(parts.groups.tensor.is_first)
    if parts.groups.world.size > 1:
        torch.distributed.all_reduce(sums)
    total, count = sums.tolist()
    return total, count


def forward_backward(parts: Parts, batches: Sequence[Batch], *, step: int, forward_only: bool = False) -> Tensor:
    """Run Megatron-Core's schedule over the micro-batches.

    Returns loss sums and label counts of each row, in the order of ``batches``, shape [R, 2], float64; no rows off the
    last pipeline stage.
    """
    layout, pipeline = parts.config.layout, parts.groups.collection.pp
    schedule = get_forward_backward_func(layout.pipeline, layout.virtual_pipeline if len(parts.chunks) > 1 else None)
    sums: list[Tensor] = schedule(
        forward_step_func=functools.partial(_forward, parts, step),
        data_iterator=[iter(batches) for _ in parts.chunks],
        model=parts.chunks,
        num_microbatches=len(batches),
        seq_length=batches[0].rows * batches[0].row_length,
        micro_batch_size=1,
        forward_only=forward_only,
        p2p_communicator=P2PCommunicator(pipeline, get_model_config(parts.chunks[0])) if pipeline.size() > 1 else None,
        pg_collection=parts.groups.collection,
    )
    return torch.cat([torch.zeros(0, 2, dtype=torch.float64, device=parts.groups.device.torch_device), *sums])


def sums_by(sums_R2: Tensor, groups: Sequence[NDArray[np.int32]], count: int) -> Tensor:
    """Loss sums and label counts of each of ``count`` groups from those of the rows, shape [count, 2], float64.

    ``groups``: for each batch the group of its rows.
    """
    by_group = torch.zeros(count, 2, dtype=torch.float64, device=sums_R2.device)
    if sums_R2.shape[0] and count:
        groups_R = torch.from_numpy(np.concatenate(groups)).long()
        by_group.index_add_(0, to_device(groups_R, sums_R2.device), sums_R2)
    return by_group


def kinds_of_rows(batches: Sequence[Batch]) -> list[NDArray[np.int32]]:
    """For the rows of each batch 1 where they are of next tokens in a run that mixes them with masked ones, else 0."""
    return [
        np.zeros(batch.rows, np.int32) if batch.causal_B is None else batch.causal_B.astype(np.int32)
        for batch in batches
    ]


def training_flops(model: ModelConfig, batch: Batch, *, causal: bool) -> float:
    """Training FLOPs of a micro-batch; ``causal``: where its rows are all alike, they look to the left."""
    lengths_S, causal_S = np.diff(batch.cu_seqlens_S), batch.causal_S
    if causal_S is None:
        return flops(model, causal, lengths_S.tolist(), batch.labels).training
    to_left = flops(model, True, lengths_S[causal_S].tolist(), labels=0)
    return to_left.training + flops(model, False, lengths_S[~causal_S].tolist(), batch.labels).training


def _forward(
    parts: Parts, step: int, feed: Iterator[Batch], chunk: torch.nn.Module
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Feed the next micro-batch to a chunk; the returned function turns the last pipeline stage's output into sums."""
    batch, config = next(feed), parts.config
    device_batch = DeviceBatch.from_batch(batch, parts.groups, derive(*dropout_key(config)), step)
    bounds = label_bounds(batch, device_batch.packed.first_token, device_batch.labels)
    return chunk(device_batch), functools.partial(_sums, bounds)


def label_bounds(batch: Batch, first_token: int, labels: int) -> NDArray[np.int64]:
    """Bounds of the rows of a batch among the ``labels`` labels of the slice that begins with a token, [B + 1]."""
    ends = np.arange(batch.rows + 1) * batch.row_length
    before = np.searchsorted(batch.label_positions_L, first_token)
    return (np.searchsorted(batch.label_positions_L, ends) - before).clip(0, labels)


def dropout_key(config: RunConfig) -> tuple[int | str, ...]:
    """What the bits of dropout are functions of, beside the step and the place of a number in it."""
    number, first_row = config.data.stage_number, config.data.first_row
    further = (number, first_row) if number >= 0 or first_row else ()  # a further stage of one kind in a plan
    return config.seed, "dropout", config.stage, *further


def _sums(bounds: NDArray[np.int64], losses_L: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss sum and label count for the gradient, and both for each row, as Megatron-Core wants them.

    ``bounds`` of the rows among the labels. Rows are gathered side by side: sums into them would queue for few places.
    """
    labels, counts_B = losses_L.numel(), np.diff(bounds)
    places_BM = bounds[:-1, None] + np.arange(counts_B.max(initial=0))
    places_BM[places_BM >= bounds[1:, None]] = labels  # of a 0 behind the losses
    padded = torch.cat([losses_L.detach(), losses_L.new_zeros(1)])
    sums_B = padded[to_device(torch.from_numpy(places_BM), losses_L.device)].double().sum(dim=1)
    counts = to_device(torch.from_numpy(counts_B.astype(np.float64)), losses_L.device)
    count = torch.full((), labels, dtype=torch.int, device=losses_L.device)
    return losses_L.sum(), count, torch.stack([sums_B, counts], dim=1)
