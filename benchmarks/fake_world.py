"""One rank of a large layout in one process: a fake process group, real shards, a real step, counted messages."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_ettin.batch import Batch
from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.derived import with_world_size
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.rules import check
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.communication import Place, messages
from megatron_ettin.cost.memory import rank_parameters
from megatron_ettin.cost.placement import micro_batch_count
from megatron_ettin.parallel.device import prepare
from megatron_ettin.parallel.groups import finish, initialize

OPERATIONS = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "send": "send",
}
"""What torch calls the operations that are counted; a broadcast of one number and receptions are not."""


class MessageCounter(TorchDispatchMode):
    """Counts collectives and sends, and the bytes of the larger side of each."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = OPERATIONS.get(func.__name__.partition(".")[0])
            if name is not None:
                self.counts[name] += 1
                self.bytes[name] += max(sum(tensor.nbytes for tensor in tensors_in(item)) for item in args)
        return func(*args, **(kwargs or {}))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor in nested lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


@dataclass(frozen=True)
class Seen:
    """What one rank of the world did in a step."""

    pipeline_rank: int
    context_rank: int
    labels: int
    """Of one micro-batch on this rank."""
    parameters: int
    counts: Counter[str]
    bytes: Counter[str]


def one_step(config: RunConfig, rank: int, world: int, micro_batches: int) -> Seen:
    """Build the parts of one rank and run its forward and backward passes and its update; values mean nothing."""
    config = with_micro_batches(config, world, micro_batches)
    prepare()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        return counted_step(config, micro_batches)
    finally:
        finish()


def with_micro_batches(config: RunConfig, world: int, micro_batches: int) -> RunConfig:
    """The run on a world of ranks with so many micro-batches a step, checked."""
    config = with_world_size(config, world)
    rows = micro_batches * config.layout.micro_batch_rows * config.layout.data
    config = replace(config, batch=replace(config.batch, rows=rows, warmup_tokens=0))
    check(config, world)
    assert micro_batch_count(config) == micro_batches
    return config


def counted_step(config: RunConfig, micro_batches: int) -> Seen:
    """The step of this rank, its messages counted."""
    from megatron_ettin.model.device_batch import DeviceBatch
    from megatron_ettin.train.parts import build_parts
    from megatron_ettin.train.step import forward_backward

    groups = initialize(config.layout)
    parts = build_parts(config, groups, sources=1)
    batch = random_batch(config)
    for chunk in parts.chunks:
        chunk.zero_grad_buffer()
    with MessageCounter() as counter:
        forward_backward(parts, [batch] * micro_batches, step=0)
        for chunk in parts.chunks:
            chunk.start_param_sync(force_sync=True)
    return Seen(
        pipeline_rank=groups.pipeline.rank,
        context_rank=groups.context.rank,
        labels=DeviceBatch.from_batch(batch, groups).labels,
        parameters=sum(parameter.numel() for chunk in parts.chunks for parameter in chunk.parameters()),
        counts=counter.counts,
        bytes=counter.bytes,
    )


def random_batch(config: RunConfig) -> Batch:
    """One micro-batch of random ids, a piece a row."""
    rows, length = config.layout.micro_batch_rows, config.data.row_length
    generator = np.random.default_rng(0)
    ids = generator.integers(0, config.model.vocabulary, (rows, length)).astype(np.int32)
    tokens = rows * length
    chosen = np.sort(generator.choice(tokens, max(1, int(tokens * config.data.mask_share)), replace=False))
    positions = np.arange(tokens) if config.objective == "clm" else chosen
    return Batch(
        input_ids_BT=ids,
        positions_BT=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        cu_seqlens_S=np.arange(0, tokens + 1, length, dtype=np.int32),
        label_positions_L=positions.astype(np.int32),
        label_ids_L=ids.reshape(-1)[positions],
        rows_B=np.arange(rows),
        sources_B=np.zeros(rows, np.int32),
        tokens=tokens,
    )


def compare(case: dict[str, Any]) -> dict[str, Any]:
    """One rank's step beside the estimate: (seen, estimated) of parameters, and of counts and bytes by operation.

    A case has ``size objective layout rank`` and may have ``world micro_batches fields`` (fields by dotted path).
    """
    short = {"data.row_length": 256, "data.piece_length": 256, "layout.micro_batch_rows": 1}
    layout = {f"layout.{name}": value for name, value in case["layout"].items()}
    config = with_fields(
        recipe(case["size"], case["objective"], "pretrain"),
        short | {"batch.warmup_tokens": 0, "compute.precision": "fp32"} | layout | case.get("fields", {}),
    )
    world, micro_batches = case.get("world", 1024), case.get("micro_batches", 4)
    seen = one_step(config, case["rank"], world, micro_batches)
    config = with_micro_batches(config, world, micro_batches)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for message in messages(config, Place(seen.pipeline_rank, seen.context_rank, seen.labels)):
        counts[message.operation] += message.count
        sizes[message.operation] += round(message.count * message.bytes)
    names = sorted(set(counts) | set(seen.counts))
    return {
        "case": case,
        "parameters": (seen.parameters, rank_parameters(config, seen.pipeline_rank)[0]),
        "counts": {name: (seen.counts[name], counts[name]) for name in names},
        "bytes": {name: (seen.bytes[name], sizes[name]) for name in names},
    }


def main() -> None:
    """``python -m benchmarks.fake_world CASES``: a JSON list of cases; prints one JSON object a line."""
    for case in json.loads(sys.argv[1]):
        print(json.dumps(compare(case)), flush=True)


if __name__ == "__main__":
    main()
