"""A step of the GPU path that nobody runs, and how long it would take at named rates. Modelled, not measured."""

# T tokens (queries of a call), K keys, N heads, D head size

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu_parts.launch_costs import launches_kept
from benchmarks.gpu_parts.machine import MICRO_BATCHES, Machine
from benchmarks.gpu_parts.rows import Row
from benchmarks.gpu_parts.work import RATE, batches, run_of
from benchmarks.gpu_parts.work_list import Work, WorkList
from megatron_ettin.cost.hardware import H100_CLUSTER
from megatron_ettin.cost.logits import OWN_MATRIX_SHARE
from megatron_ettin.cost.step_time import BACKWARD_PAIRS
from megatron_ettin.parallel.groups import Groups

TILE = 128
"""Queries, and keys, that an attention kernel computes at once: a window costs all pairs of the tiles that it meets."""
ATTENTION_LAUNCHES = (1, 3)
"""Of a call, forward and backward: the latter sums up before and converts behind its main kernel."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What an H100 is taken to reach. Assumptions, not measurements."""

    memory: float = H100_CLUSTER.memory
    """Bytes a second, reads and writes together."""
    product: float = H100_CLUSTER.matrix
    """FLOP/s of products in bf16."""
    own_product: float = OWN_MATRIX_SHARE * H100_CLUSTER.matrix
    """FLOP/s of those by own kernels."""
    attention: tuple[float, float] = H100_CLUSTER.attention
    """FLOP/s of FlashAttention 2, forward and backward."""
    attention_3: float = 1.5
    """FlashAttention 3 reaches so many times as much."""
    link: float = 50e9
    """Bytes a second from the host's memory."""
    shortest: float = 2e-6
    """Seconds that a kernel takes at least."""
    launch: float = H100_CLUSTER.launch
    """Seconds of the host for each launch, Python included."""

    def seconds(self, work: Work, generation: int) -> float:
        """Of one entry; `generation` of FlashAttention: 2 or 3."""
        faster = self.attention_3 if generation == 3 else 1.0
        units = {
            "memory": float("inf"), "link": float("inf"), "product": self.product, "own product": self.own_product,
            "attention forward": faster * self.attention[0], "attention backward": faster * self.attention[1],
        }  # fmt: skip
        moving = work.bytes / (self.link if work.unit == "link" else self.memory)
        return max(moving, work.flops / units[work.unit], self.shortest)

    def total(self, works: Sequence[Work], generation: int) -> float:
        """Of a list: that of the device, or of the host where it launches more slowly than the device computes."""
        return max(sum(self.seconds(work, generation) for work in works), launches(works) * self.launch)


def launches(works: Sequence[Work]) -> int:
    """Calls of the driver."""
    return sum(work.launches for work in works)


@dataclass(frozen=True, kw_only=True)
class Modelled:
    """The work of a size with so many rows of a length in a micro-batch."""

    micro_batch: list[Work]
    """Forward and backward."""
    step: list[Work]
    """All micro-batches of a step, the sum over the ranks, and the update."""
    tokens: int
    """Of a step."""


def modelled(size: str, rows: int, length: int, machine: Machine) -> Modelled:
    """Trace a step of the recipe with rows of one piece. Raises UnknownOperationError for what has no known cost."""
    from megatron_ettin.train.parts import build_parts
    from megatron_ettin.train.step import Asks, forward_backward, train_step
    from tests.train.absent_device import ABSENT, AbsentGpu, without_collectives

    config = run_of(Row(kind="step", size=size, row_length=length, backend="flash"), machine, rows)
    given, work = batches(config), WorkList(ABSENT)
    with attention_kept(work.done), without_collectives(), launches_kept(work.done), AbsentGpu():
        parts = build_parts(config, machine.groups, sources=1)
        train_step(parts, given, step=0, rate=RATE, asks=Asks())
        traced = []
        for job in (
            lambda: forward_backward(parts, given[:1], step=1),
            lambda: train_step(parts, given, step=1, rate=RATE, asks=Asks()),
        ):
            work.done.clear()
            with work:
                job()
            traced.append([*work.done])
    return Modelled(micro_batch=traced[0], step=traced[1], tokens=MICRO_BATCHES * rows * config.data.row_length)


def absent_machine(groups: Groups | None = None) -> Machine:
    """A Hopper that is not there, its world of one, and full-size work."""
    from tests.train.absent_device import absent_groups

    return Machine(groups=groups or absent_groups())


@contextmanager
def attention_kept(done: list[Work]) -> Iterator[None]:
    """FlashAttention of a Hopper is not run: its calls are added to the list. Initial weights are not drawn."""
    from tests.train.absent_device import HOPPER

    def flash_attn_varlen_func(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        lengths, window = (options["max_seqlen_q"], options["max_seqlen_k"]), options["window_size"]
        return _Attention.apply(q, k, v, lengths, window, done)  # type: ignore[no-untyped-call]

    stand_in = mock.MagicMock(flash_attn_varlen_func=flash_attn_varlen_func)
    with (
        mock.patch("megatron_ettin.model.build.installed", lambda _: HOPPER),
        mock.patch("megatron_ettin.model.layer.compute_capability", lambda _: (9, 0)),
        mock.patch("megatron_ettin.model.build.compute_capability", lambda _: (9, 0)),
        mock.patch("megatron_ettin.model.build.initialize_weights", lambda *_: None),
        mock.patch.dict(sys.modules, {"flash_attn_interface": stand_in}),
    ):
        yield


class _Attention(torch.autograd.Function):
    """Adds both passes of a call to a list."""

    @staticmethod
    def forward(
        ctx: Any, query_TND: Tensor, key_KND: Tensor, value_KND: Tensor,
        lengths: tuple[int, int], window: tuple[int, int], done: list[Work],
    ) -> Tensor:  # fmt: skip
        """Something of the shape of the queries."""
        tokens, heads, size = query_TND.shape
        ctx.shapes, ctx.done = (query_TND.shape, key_KND.shape), done
        ctx.flops = 4.0 * heads * size * pairs(tokens, *lengths, window)
        ctx.bytes = (2 * query_TND.numel() + 2 * key_KND.numel()) * query_TND.itemsize
        ctx.summed = 4 * query_TND.numel()
        done.append(
            Work(name=f"attention {_sees(window)}", bytes=ctx.bytes + 4 * tokens * heads, flops=ctx.flops,
                 unit="attention forward", launches=ATTENTION_LAUNCHES[0])
        )  # fmt: skip
        ctx.name = f"attention {_sees(window)} backward"
        return query_TND.new_empty(query_TND.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Something of the shapes of queries, keys and values, each by itself; gradients of queries add up in fp32."""
        queries, keys = ctx.shapes
        ctx.done.append(
            Work(name=ctx.name, bytes=2 * ctx.bytes + 4 * ctx.summed, flops=BACKWARD_PAIRS * ctx.flops,
                 unit="attention backward", launches=ATTENTION_LAUNCHES[1])
        )  # fmt: skip
        made = [gradients[0].new_empty(shape) for shape in (queries, keys, keys)]
        return *made, None, None, None


def pairs(queries: int, most_queries: int, most_keys: int, window: tuple[int, int]) -> int:
    """(query, key) pairs that the tiles of a kernel compute for one head, of segments of equal length."""
    left, right = window
    if left < 0:
        return queries * ceil(most_keys / TILE) * TILE
    last = ceil(most_keys / TILE) - 1
    met = 0
    for first in range(0, most_queries, TILE):
        behind = last if right < 0 else (first + TILE - 1 + right) // TILE
        met += min(last, behind) - max(0, (first - left) // TILE) + 1
    return ceil(queries / most_queries * met * TILE * TILE)


def _sees(window: tuple[int, int]) -> str:
    return "of whole pieces" if window[0] < 0 else "within a window"
