"""The only place that knows a CPU from a GPU.

Megatron-Core has no CPU path: its schedules, gradient buffers and optimizers name CUDA inside functions.
Without a CUDA device, and only then, `prepare` enters one `TorchFunctionMode` that sends what they ask of CUDA to the
CPU, and replaces the functions of `torch.cuda` that have no device argument. On a GPU it replaces nothing.
"""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401
from megatron_ettin.parallel.megatron import check_packages

import contextlib
import functools
import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from megatron_ettin import _native
from megatron_ettin.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Device:
    """What this process computes on."""

    kind: str
    """cpu or cuda."""
    backend: str
    """The torch.distributed backend that belongs to it: gloo or nccl."""
    torch_device: torch.device
    """Where tensors live."""


_TO_CUDA, _TYPE = torch.Tensor.cuda, torch.Tensor.type


class CudaOnCpu(TorchFunctionMode):
    """Lets code that names CUDA run on the CPU: `device=`, `Tensor.cuda` and the type strings that it compares."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch function, with CUDA read as CPU."""
        if func is _TO_CUDA:
            return args[0]
        if not kwargs:  # nearly every call: nothing more is done for it, since a step makes thousands
            return func(*args).replace("torch.", "torch.cuda.", 1) if func is _TYPE and len(args) == 1 else func(*args)
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"} | {"device": "cpu"}
        return func(*args, **kwargs)


KEPT_BYTES = 32 << 20
"""Freed memory up to this many bytes, the most that glibc allows, is kept: every step asks for as much again,
and fresh pages cost as much as a pass over them."""
FP32_PRODUCT = 2e-6
"""Error of a true fp32 product of 256 terms; one with bf16 inside errs by 1e-3."""


def prepare() -> Device:
    """Find the device of this process and make Megatron-Core able to run on it. Call first; again costs nothing."""
    check_packages(torch.cuda.is_available())
    warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"local rank {index} has no GPU: this machine has {torch.cuda.device_count()}; "
                "start at most one process for each GPU (torchrun --nproc-per-node)"
            )
        # Tensors behind the head have another size in every micro-batch: fixed segments would be left in pieces.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        torch.cuda.set_device(index)
        return Device(kind="cuda", backend="nccl", torch_device=torch.device("cuda", index))
    _install()
    use_fast_products()
    _native.keep_freed_memory(KEPT_BYTES)
    return Device(kind="cpu", backend="gloo", torch_device=torch.device("cpu"))


@contextlib.contextmanager
def deterministic_kernels(device: Device, wanted: bool) -> Iterator[None]:
    """Inside, a GPU computes the same bits from the same numbers: torch's choice of kernels, cuBLAS' memory.

    A CPU does so anyway. An operation without such a kernel raises RuntimeError.
    """
    if not wanted or device.kind == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # a pass over each new tensor, for debugging
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


def use_fast_products() -> bool:
    """Let oneDNN compute fp32 matrix products where it stays in fp32; twice as fast as MKL on processors without AMX.

    The switch that selects oneDNN also allows it bf16 inside, which it uses where the processor has AMX. So the
    processor is asked first and a product is checked afterwards; where either fails nothing is changed.
    """
    settings: Any = torch.backends.mkldnn
    try:
        has_amx = "amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_amx = True
    if has_amx or not (settings.is_available() and hasattr(settings, "matmul")):
        return False
    before = settings.matmul.fp32_precision
    settings.matmul.fp32_precision = "bf16"
    if product_error() < FP32_PRODUCT:
        return True
    settings.matmul.fp32_precision = before
    return False


def product_error() -> float:
    """Largest error of an fp32 matrix product here, relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = one.double() @ other.double()
    return float(((one @ other).double() - exact).abs().max() / exact.abs().max())


@functools.cache
def _install() -> CudaOnCpu:
    """Enter the mode, once in a process, and replace what it does not reach; returns the mode."""
    mode = CudaOnCpu()
    mode.__enter__()  # type: ignore[no-untyped-call]
    cuda: Any = torch.cuda
    get_state, set_state = torch.random.get_rng_state, torch.random.set_rng_state
    cuda.current_device = lambda: torch.device("cpu")
    cuda.synchronize = lambda device=None: None
    cuda.current_stream = lambda device=None: None
    cuda.default_stream = lambda device=None: None
    cuda.get_rng_state = cuda.random.get_rng_state = lambda device=None: get_state()
    cuda.set_rng_state = lambda new_state, device=None: set_state(new_state)
    cuda.manual_seed = torch.manual_seed

    # Megatron-Core reaches into CUDA's generators by two functions of its own. Its "GPU" generator is that of the CPU
    # here, so its warning that the one changed inside the other is always wrong.
    from megatron.core.tensor_parallel import random as megatron_random

    megatron_random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: get_state()
    megatron_random._set_cuda_rng_state = lambda new_state, device=-1, graph_safe=False: set_state(new_state)
    logging.getLogger(megatron_random.__name__).addFilter(
        lambda record: "CPU RNG state changed within GPU RNG context" not in record.getMessage()
    )
    return mode


def compute_capability(device: Device) -> tuple[int, int] | None:
    """(major, minor) of a GPU's generation; None without a GPU."""
    return torch.cuda.get_device_capability(device.torch_device) if device.kind == "cuda" else None


def device_memory(device: Device) -> int | None:
    """Bytes of a GPU; None without one."""
    return torch.cuda.get_device_properties(device.torch_device).total_memory if device.kind == "cuda" else None


def to_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device; from pinned memory, so that nobody waits for the copy. On a CPU it is there."""
    if device.type == "cpu":
        return host
    pinned = host.pin_memory() if device.type == "cuda" else host
    return pinned.to(device, non_blocking=True)


def let_go(*, compiled: bool) -> None:
    """Free what a training held that is over, so that another one in this process has the room and its own peak.

    Modules and hooks of Megatron-Core hold one another. ``compiled``: code was compiled for its shapes, of which
    torch.compile keeps a few before it gives up.
    """
    gc.collect()
    if compiled:
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def limit_threads(threads: int) -> None:
    """Compute with this many CPU threads in this process; 0 leaves what the environment set."""
    if threads:
        torch.set_num_threads(threads)
