"""Before the first step on a GPU: whether the micro-batch that its memory was planned for fits after all."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from megatron.core.utils import get_model_config

from megatron_ettin.batch import Batch
from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.fit import smaller_micro_batch, with_micro_batch
from megatron_ettin.errors import ConfigError
from megatron_ettin.parallel.device import let_go
from megatron_ettin.parallel.together import everywhere
from megatron_ettin.rows.run_data import RunData
from megatron_ettin.train.parts import Parts
from megatron_ettin.train.step import forward_backward

SHARE_MORE = "share the model by --tensor or --pipeline, or give --layout.recompute full"


def can_rehearse(config: RunConfig) -> bool:
    """Whether the micro-batch is to be chosen, and a rank can compute one by itself without leaving a trace.

    Ranks that share a model would be left in the middle of messages to one that has no memory; scales of earlier steps
    would remember the rehearsal.
    """
    remembers = config.compute.precision == "fp8" and config.compute.fp8_recipe == "delayed"
    return config.layout.fit_micro_batch and model_ranks(config.layout) == 1 and not remembers


def rehearsed(parts: Parts, data: RunData, say: Callable[[str], None]) -> Parts:
    """The parts with the largest micro-batch, from the chosen one down, that every rank has the memory for.

    Each rank computes one, all hear of it, and none takes another before. Neither weights nor state of the optimizer
    nor random numbers nor rows move: the gradients that it leaves are cleared by the first step. Every rank calls this.
    Raises ConfigError where not even the smallest fits.
    """
    rank = parts.groups.data.rank
    while True:
        config = parts.config
        rows = config.layout.micro_batch_rows
        batch = data.batch(data.order.at(rank * rows, rows), config.objective)
        started = time.perf_counter()
        if all(everywhere(lambda here=parts, batch=batch: holds(here, batch))):  # type: ignore[misc]
            say(f"the first micro-batch took {time.perf_counter() - started:.1f} s, what is compiled for it included")
            return parts
        let_go(compiled=False)
        fewer = smaller_micro_batch(config)
        if not fewer:
            raise ConfigError(f"not even micro-batches of {rows} rows fit into the memory of every GPU; {SHARE_MORE}")
        say(f"micro-batches of {rows} rows are more than the memory of every GPU holds: {fewer} rows are taken")
        parts = replace(parts, config=with_micro_batch(config, fewer))


def holds(parts: Parts, batch: Batch) -> bool:
    """Whether this rank's memory holds both passes of a micro-batch beside the state of the optimizer."""
    try:
        parts.optimizer.optimizer.prepare_state()
        with without_messages(parts):
            forward_backward(parts, [batch], step=0)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return False
    return True


@contextmanager
def without_messages(parts: Parts) -> Iterator[None]:
    """Data ranks neither reduce gradients nor gather weights meanwhile, which are whole before the first step."""
    config = get_model_config(parts.chunks[0])
    usual = config.finalize_model_grads_func, config.no_sync_func
    config.finalize_model_grads_func, config.no_sync_func = None, nullcontext
    hooked = [chunk for chunk in parts.chunks if chunk.ddp_config.overlap_param_gather]
    for chunk in hooked:
        chunk.disable_forward_pre_hook(param_sync=False)
    try:
        with ExitStack() as stack:
            for chunk in parts.chunks:
                stack.enter_context(chunk.no_sync())
            yield
    finally:
        config.finalize_model_grads_func, config.no_sync_func = usual
        for chunk in hooked:
            chunk.enable_forward_pre_hook()


def out_of_memory(config: RunConfig, device_bytes: int | None) -> str:
    """What to do about a GPU whose memory a step does not fit into."""
    rows, fewer = config.layout.micro_batch_rows, smaller_micro_batch(config, device_bytes)
    found = f"a GPU has no memory left with layout.micro_batch_rows={rows}"
    if not fewer:
        return f"{found}; {SHARE_MORE}"
    return f"{found}; go on by the same command with --layout.micro-batch-rows {fewer}, or {SHARE_MORE}"
