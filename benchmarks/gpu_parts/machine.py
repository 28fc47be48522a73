"""What the rows run on: a GPU, or a CPU that stands in for one in a dry run."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from benchmarks.gpu_parts.limits import Ceilings
from benchmarks.gpu_parts.rows import Row
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.parallel.groups import Groups

ROWS = {"17m": 144, "32m": 128, "68m": 96, "150m": 72, "400m": 48, "1b": 24}
"""Rows of 1,024 tokens in a micro-batch: those of the models' own training."""
MICRO_BATCHES = 2
"""Micro-batches of a step, as on each of 8 to 16 GPUs in the recipe."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the work is."""

    matrix: int = 8192
    """Side of the square matrices that measure the ceiling of products."""
    copy_bytes: int = 4 << 30
    timed_seconds: float = 4.0
    """Steps are repeated for about this long."""
    least_steps: int = 3
    warmup_steps: int = 3
    patience: float = 60.0
    """Seconds that a row may take beside what is expected of it: one that takes longer hangs."""
    tiny: bool = False
    """Models, rows and micro-batches small enough for a CPU."""


TINY = Scale(matrix=64, copy_bytes=1 << 16, timed_seconds=0.0, least_steps=1, warmup_steps=1, patience=600.0, tiny=True)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device, its process group of one, and the scale of the work."""

    groups: Groups
    scale: Scale = Scale()

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self.groups.device.torch_device

    @property
    def is_gpu(self) -> bool:
        """Not a stand-in."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """The device as its driver names it."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else "CPU (dry run)"

    def shape(self, size: str) -> ModelConfig:
        """The shape of a size, without dropout; its pattern alone in a dry run."""
        shape = replace(SHAPES[size], output_dropout=0.0)
        if not self.scale.tiny:
            return shape
        return replace(shape, layers=4, hidden=64, intermediate=96, heads=2, vocabulary=512, maximum_length=128)

    def row_length(self, asked: int) -> int:
        """Tokens of a row."""
        return asked // 64 if self.scale.tiny else asked

    def micro_batch_rows(self, size: str, row_length: int) -> int:
        """Rows of a micro-batch that keep its tokens whatever the length of a row."""
        return 1 if self.scale.tiny else max(1, ROWS[size] * 1024 // row_length)

    def rows_of(self, row: Row) -> int:
        """Rows of a micro-batch that a row asks for."""
        usual = self.micro_batch_rows(row.size, row.row_length)
        return min(row.rows, usual) if row.rows else usual

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, job: Callable[[], object]) -> float:
        """Elapsed time of a call and all that it started on the device."""
        self.synchronize()
        started = time.perf_counter()
        job()
        self.synchronize()
        return time.perf_counter() - started

    def forget(self) -> None:
        """Free what the last row held, and count the peak of memory anew."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
        self.count_peak()

    def count_peak(self) -> None:
        """Count the peak of memory anew: the first step also holds what compiling tries out."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        """Most bytes of tensors held since `count_peak`."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_gpu else None

    def host_waits(self, job: Callable[[], object]) -> int:
        """How often the host waits for the device in a call, as CUDA reports it; a dry run counts reads of numbers."""
        if not self.is_gpu:
            with HostReads() as reads:
                job()
            return reads.count
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                job()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    def ceilings(self) -> dict[str, float]:
        """Measured: square products in bf16 with random numbers, and a copy, reads and writes counted."""
        side = self.scale.matrix
        one, other = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        source = torch.empty(self.scale.copy_bytes, dtype=torch.uint8, device=self.device).random_()
        target = torch.empty_like(source)
        product = median([self.seconds(lambda: one @ other) for _ in range(10)])
        copy = median([self.seconds(lambda: target.copy_(source)) for _ in range(10)])
        return {"flops": 2.0 * side**3 / product, "bandwidth": 2.0 * source.numel() / copy}


def ceilings_of(values: dict[str, Any]) -> Ceilings:
    """What `Machine.ceilings` stored."""
    return Ceilings(flops=values["flops"], bandwidth=values["bandwidth"])


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


class HostReads(TorchFunctionMode):
    """Counts the calls that hand numbers of a tensor to Python."""

    READS = (
        torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func in self.READS
        return func(*args, **(kwargs or {}))
