"""What context ranks really send each other, and what they see of each other's pieces."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.config.derived import with_world_size
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.communication import Place, context
from megatron_ettin.model.attention import exchange
from megatron_ettin.model.build import build_model
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import build_parts
from tests.layouts.cases import Case
from tests.layouts.rows import batch_of
from tests.layouts.training import one_step


class Recorded:
    """torch.distributed as the exchange calls it; messages and bytes by operation are counted."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(dist, name)

    def all_gather_into_tensor(self, output: Tensor, *rest: Any, **options: Any) -> Any:
        self._count("all_gather", output)
        return dist.all_gather_into_tensor(output, *rest, **options)

    def reduce_scatter_tensor(self, output: Tensor, whole: Tensor, **options: Any) -> Any:
        self._count("reduce_scatter", whole)
        return dist.reduce_scatter_tensor(output, whole, **options)

    def batch_isend_irecv(self, operations: list[dist.P2POp]) -> Any:
        for operation in operations:
            if operation.op is dist.isend:
                self._count("send", operation.tensor)
        return dist.batch_isend_irecv(operations)

    def _count(self, operation: str, tensor: Tensor) -> None:
        self.messages[operation] += 1
        self.bytes[operation] += tensor.numel() * tensor.element_size()


OPERATIONS = ("all_gather", "reduce_scatter", "send")


def both(case: Case, groups: Groups) -> dict[str, Tensor]:
    """What is sent in a step and, where every rank has a whole model, what is seen of other pieces."""
    return count(case, groups) | (isolate(case, groups) if has_whole_model(case) else {})


def has_whole_model(case: Case) -> bool:
    """Whether no pipeline cuts the model, whose outputs do not depend on recomputation either."""
    return "pipeline" not in case.layout and case.layout.get("recompute") is None


def count(case: Case, groups: Groups) -> dict[str, Tensor]:
    """For every rank: messages and bytes by operation in a real step, and those of ``ettin estimate``."""
    config = with_world_size(case.config(), groups.world.size)
    parts, recorded = build_parts(config, groups, sources=1), Recorded()
    with mock.patch.object(exchange, "dist", recorded):
        one_step(parts, case.rows, 0)
    mine = {
        "seen": [recorded.messages[name] for name in OPERATIONS] + [recorded.bytes[name] for name in OPERATIONS],
        "estimated": estimated(config, groups),
    }
    everyone: list[Any] = [None] * groups.world.size
    dist.all_gather_object(everyone, mine)
    return {
        f"{rank}/{name}": torch.tensor(numbers, dtype=torch.int64)
        for rank, found in enumerate(everyone) for name, numbers in found.items()
    }  # fmt: skip


def estimated(config: RunConfig, groups: Groups) -> list[int]:
    """Messages and bytes by operation of this rank's place."""
    messages: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for message in context(config, Place(pipeline=groups.pipeline.rank, context=groups.context.rank)):
        messages[message.operation] += message.count
        size[message.operation] += round(message.count * message.bytes)
    return [messages[name] for name in OPERATIONS] + [size[name] for name in OPERATIONS]


def isolate(case: Case, groups: Groups) -> dict[str, Tensor]:
    """How far the output of each token moves when the ids of one piece change, for each piece: [pieces, tokens]."""
    config = case.config()
    (model,) = build_model(config, groups)
    batch = batch_of(config, range(config.layout.micro_batch_rows))
    bounds = batch.cu_seqlens_S.tolist()

    def output(of: Batch) -> Tensor:
        with torch.no_grad():
            hidden = model.hidden(DeviceBatch.from_batch(of, groups))
        if config.layout.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, group=groups.tensor.group)
        whole = hidden.new_empty(hidden.shape[0] * groups.context.size, *hidden.shape[1:])
        dist.all_gather_into_tensor(whole, hidden.contiguous(), group=groups.context.group)
        return whole[:, 0]

    before = output(batch)
    moved = [
        (output(changed(batch, first, last, config.model.vocabulary)) - before).abs().amax(dim=1)
        for first, last in zip(bounds, bounds[1:], strict=False)
    ]
    return {"moved": torch.stack(moved), "bounds": torch.tensor(bounds)}


def changed(batch: Batch, first: int, last: int, vocabulary: int) -> Batch:
    """The same rows with other ids in one piece."""
    ids = batch.input_ids_BT.copy().reshape(-1)
    ids[first:last] = (ids[first:last] + 1 + np.arange(last - first)) % vocabulary
    return replace(batch, input_ids_BT=ids.reshape(batch.input_ids_BT.shape))
