"""What a launch of an own kernel costs, by the cost functions that stand beside the kernels."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from torch import Tensor

from benchmarks.gpu_parts.work_list import UnknownOperationError, Work
from megatron_ettin.cost.hardware import H100_CLUSTER
from megatron_ettin.cost.logits import EXPONENTIALS, OWN_MATRIX_SHARE

PASSES_OF_ADAM = {"second_moments_kernel": 1 / 3, "update_kernel": 2 / 3, "sums_kernel": 0.0}
"""`adam.cost` is of all passes: of the nine numbers that they move for each weight the first pass moves three."""


def modules() -> Iterator[ModuleType]:
    """Those with own kernels: all that start some."""
    from megatron_ettin.kernels import triton

    for found in pkgutil.iter_modules(triton.__path__, f"{triton.__name__}."):
        module = importlib.import_module(found.name)
        if "launch" in vars(module) and not hasattr(module.launch, "arg_names"):
            yield module


@contextmanager
def launches_kept(done: list[Work]) -> Iterator[None]:
    """Own kernels are not run: each launch is added to the list with what it costs. Raises UnknownOperationError."""

    def keep(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        if 0 not in grid:
            names = [name for name in kernel.arg_names if name not in constants]
            done.append(work_of(kernel, grid, dict(zip(names, arguments, strict=True)) | constants))

    with ExitStack() as stack:
        for module in modules():
            stack.enter_context(mock.patch.object(module, "launch", keep))
        yield


def work_of(kernel: Any, grid: tuple[int, ...], given: dict[str, Any]) -> Work:
    """One launch. The cost of `x_kernel` is `x_cost` of its module, else `cost`, asked for the launch's own numbers."""
    name, module = kernel.fn.__name__, inspect.getmodule(kernel.fn)
    function = getattr(module, name.replace("_kernel", "_cost"), None) or getattr(module, "cost", None)
    label = f"{module.__name__.rpartition('.')[2]}.{name}" if module else name
    if function is None:
        raise UnknownOperationError(f"nobody knows what {label} costs: give its module a function of that name")
    numbers = {}
    for parameter in inspect.signature(function).parameters:
        found = number(parameter, name, grid, given)
        if found is None:
            raise UnknownOperationError(f"the cost of {label} asks for {parameter!r}, which no argument of it tells")
        numbers[parameter] = found
    cost = function(**numbers)
    moved = cost.bytes * PASSES_OF_ADAM.get(name, 1.0)
    if not cost.products:
        return Work(name=label, bytes=moved)
    as_flops = OWN_MATRIX_SHARE * H100_CLUSTER.matrix / EXPONENTIALS  # so many take as long as an exponential
    return Work(name=label, bytes=moved, flops=cost.products + cost.exponentials * as_flops, unit="own product")


def number(parameter: str, kernel: str, grid: tuple[int, ...], given: dict[str, Any]) -> Any:
    """The argument of that name, a constant under its name in capitals, or what follows from others; None: neither."""
    for name in (parameter, parameter.upper()):
        if isinstance(given.get(name), int):
            return given[name]
    if parameter == "item":
        return next(value.element_size() for value in given.values() if isinstance(value, Tensor))
    if parameter == "backward":
        return "backward" in kernel
    if parameter == "dropout":
        return given.get("DROPS")
    if parameter == "head_size" and "HALF" in given:
        return 2 * given["HALF"]
    if parameter == "sizes" and "CHUNK" in given:
        return [grid[0] * given["CHUNK"]]  # the tensors' last chunks count as full ones
    return [] if kernel == "sums_kernel" else None
