"""Takes a training step as a GPU would, on torch's meta device: it computes nothing, and whoever reads a number fails.

`python -m tests.train.absent_device CASE.json` prints how often the host read numbers and how often it waited for a
copy, and how often which own kernel was launched. All code that asks whether it runs on a CPU is told no.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from megatron_ettin.batch import empty_batch
from megatron_ettin.config.run import LayoutConfig, RunConfig
from megatron_ettin.model.attention.choice import Installed
from megatron_ettin.parallel import device as device_module
from megatron_ettin.parallel import groups as groups_module
from megatron_ettin.parallel.device import Device
from megatron_ettin.parallel.groups import Groups
from tests.model.inputs import batch_of, run_of, small_model

ABSENT = torch.device("meta")
HOPPER = Installed(cuda=True, hopper=True, varlen=True, flash=True, flash_hopper=True, switch=True, te=True)
PIECES = (200, 12, 300)


@dataclass
class AbsentGpu(TorchFunctionMode):
    """Reads CUDA as the meta device, and keeps what makes a host wait."""

    reads: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0].to(ABSENT)
        if func is torch.Tensor.type and len(args) == 1:
            return func(*args).replace("meta.", "").replace("torch.", "torch.cuda.", 1)
        if func is torch.Tensor.tolist and args[0].device == ABSENT:
            self.reads.append("tolist")
            return [1.0] * args[0].numel()
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs = {**kwargs, "device": ABSENT}
        self._note_copy(func, args, kwargs)
        return func(*args, **kwargs)

    def _note_copy(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        moves = func in (torch.Tensor.to, torch.Tensor.copy_) and args[0].device != args_device(args, kwargs)
        if moves and not kwargs.get("non_blocking"):
            self.copies.append(func.__name__)


def args_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """Where a copy leads or comes from."""
    named = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.device | torch.Tensor)]
    if not named:
        return args[0].device
    return named[0] if isinstance(named[0], torch.device) else named[0].device


def absent_groups() -> Groups:
    """A world of one on the absent device."""
    device_module._install().__exit__(None, None, None)
    torch.cuda.current_device = lambda: ABSENT  # type: ignore[assignment, return-value]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return groups_module.initialize(LayoutConfig(), device=Device(kind="cuda", backend="gloo", torch_device=ABSENT))


@contextmanager
def without_collectives() -> Iterator[None]:
    """Gradient buffers that send nothing: there are no collectives on this device, and one rank needs none."""
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as Bucket

    with ExitStack() as stack:
        for name in ("start_grad_sync", "finish_grad_sync", "start_param_sync", "finish_param_sync"):
            stack.enter_context(mock.patch.object(Bucket, name, lambda *_, **__: None))
        yield


def flash_attn_varlen_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
    """Something of the right shape that depends on all three."""
    return q + (k * v).sum(0)


def varlen_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, window_size: Any) -> torch.Tensor:
    """The same for torch's."""
    return flash_attn_varlen_func(q, k, v)


def run_for(case: dict[str, Any]) -> RunConfig:
    """The run of a case."""
    shape = small_model(output_dropout=case["dropout"])
    config = run_of(case["objective"], shape, precision=case["precision"], recompute=case["recompute"])
    compute = replace(config.compute, attention=case["attention"], kernels=case["kernels"])
    return replace(config, compute=compute, layout=replace(config.layout, micro_batch_rows=1))


@contextmanager
def launches_recorded() -> Iterator[Counter[str]]:
    """Own kernels are not run; each launch is counted, and its tensors must be whole and on the device."""
    counts: Counter[str] = Counter()

    def record(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        names = [name for name in kernel.arg_names if name not in constants]
        assert len(arguments) == len(names), (kernel.fn.__name__, names)
        assert all(number > 0 for number in grid)
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                assert argument.device == ABSENT and argument.is_contiguous(), kernel.fn.__name__
        counts[f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"] += 1

    with ExitStack() as stack:
        for name in ("rotary", "gated_gelu", "softmax", "linear_softmax", "add_norm", "adam"):
            stack.enter_context(mock.patch(f"megatron_ettin.kernels.triton.{name}.launch", record))
        yield counts


@contextmanager
def sums_recorded() -> Iterator[Counter[str]]:
    """Counts products that are added to float32 buffers, and checks what they are given."""
    counts: Counter[str] = Counter()
    addmm = torch.addmm

    def record(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, **options: Any) -> torch.Tensor:
        if "out_dtype" in options:
            assert options["out"] is target and target.dtype == options["out_dtype"] == torch.float32
            assert left.dtype == right.dtype == torch.bfloat16 and target.device == ABSENT
            assert left.t().is_contiguous() and right.is_contiguous() and target.is_contiguous()
            counts["x".join(map(str, target.shape))] += 1
        return addmm(target, left, right, **options)

    with mock.patch.object(torch, "addmm", record):
        yield counts


def fault(name: str) -> Any:
    """A seeded fault: somebody who wants to know."""
    if name == "item":
        return mock.patch("megatron_ettin.kernels.pointwise.functional.gelu", lambda x: x if x.sum().item() > 0 else -x)
    if name == "mask":
        return mock.patch("megatron_ettin.kernels.pointwise.functional.gelu", lambda x: x * x[x > 0].sum())
    if name == "copy":
        return mock.patch("megatron_ettin.model.packed.to_device", lambda host, device: host.to(device))
    return mock.MagicMock()


def main(case: dict[str, Any]) -> None:
    """Take two steps of two micro-batches, and of as many empty ones as the case has."""
    warnings.simplefilter("ignore")
    groups, gpu = absent_groups(), AbsentGpu()
    from megatron_ettin.train.parts import build_parts
    from megatron_ettin.train.step import Asks, train_step

    stand_in = mock.MagicMock(flash_attn_varlen_func=flash_attn_varlen_func)
    with (
        mock.patch("megatron_ettin.model.build.installed", lambda _: HOPPER),
        mock.patch("megatron_ettin.model.layer.compute_capability", lambda _: (9, 0)),
        mock.patch("megatron_ettin.model.build.compute_capability", lambda _: (9, 0)),
        mock.patch.dict(sys.modules, {"flash_attn_interface": stand_in}),
        mock.patch("torch.nn.attention.varlen.varlen_attn", varlen_attn),
        mock.patch("torch.nn.attention.activate_flash_attention_impl") as switched,
        without_collectives(), launches_recorded() as launches, sums_recorded() as sums, gpu, fault(case["fault"]),
    ):  # fmt: skip
        parts = build_parts(run_for(case), groups, sources=2)
        batches = [batch_of(PIECES, 250, seed=seed) for seed in range(2)] + [empty_batch(1, 16, 0)] * case["empty"]
        train_step(parts, batches, step=0, rate=1e-3, asks=Asks())
        gpu.reads.clear()
        gpu.copies.clear()
        launches.clear()
        sums.clear()
        train_step(parts, batches, step=1, rate=1e-3, asks=Asks())
        returned = [
            name for name, parameter in parts.chunks[0].named_parameters()
            if parameter.dim() == 2 and not parameter.grad_added_to_main_grad
        ]  # fmt: skip
    activated = [call.args[0] for call in switched.call_args_list]
    print(json.dumps({
        "reads": gpu.reads, "copies": gpu.copies, "launches": launches, "activated": activated[:1], "sums": sums,
        "returned": returned,
    }))  # fmt: skip


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
