"""What a GPU would run: every operation of a step on the meta device, with the bytes and the FLOPs that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, kw_only=True)
class Work:
    """One entry of the list; its time follows from what a machine is taken to reach."""

    name: str
    """Of the aten operation, of the own kernel or of the attention pass."""
    bytes: float
    """Read and written."""
    flops: float = 0.0
    unit: str = "memory"
    """What bounds it beside memory: product, own product, attention forward, attention backward; or link, to the host's
    memory."""
    launches: int = 1
    """Calls of the driver by the host."""


WITHOUT_KERNEL = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal", "empty", "empty_like",
    "empty_strided", "expand", "lift_fresh", "new_empty", "new_empty_strided", "permute", "reshape", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "view_as",
}  # fmt: skip
"""Views and allocations."""
SWEEPS = {
    "_to_copy", "add", "add_", "addcmul", "addcmul_", "amax", "amin", "arange", "bitwise_and", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "cat", "clamp", "clamp_", "clone", "copy_", "cos", "cumsum", "div",
    "div_", "eq", "exp", "exp_", "fill_", "floor_divide", "full", "full_like", "ge", "gelu", "gelu_backward",
    "gt", "le", "log", "log_", "lt", "max", "maximum", "mean", "min", "minimum", "mul", "mul_",
    "native_layer_norm", "native_layer_norm_backward", "ne", "neg", "neg_", "new_full", "new_zeros", "ones",
    "ones_like", "pow", "reciprocal", "remainder", "rsub", "scalar_tensor", "sin", "sqrt", "sqrt_", "stack",
    "sub", "sub_", "sum", "where", "zero_", "zeros", "zeros_like",
}  # fmt: skip
"""Each reads its tensors once and writes what it makes once, in one kernel."""
OVERWRITES = {"copy_", "fill_", "zero_"}
"""Write in place without reading what was there."""
COPIES = {"_to_copy", "copy_"}
"""Where they come from the host, they go over the link to it."""
GATHERS = {"embedding", "gather", "index", "index_select"}
"""Read as many numbers as they make, from a tensor that may be larger."""
SCATTERS = {"index_add", "index_add_", "index_copy", "scatter_add_"}
"""Read and write as many numbers as they are given, in a tensor that may be larger; not in place, in a copy of it."""
PADDED = {"select_backward", "slice_backward"}
"""Set a whole tensor to zero and copy a part into it: two kernels."""
PRODUCTS = {"addmm", "addmm_", "mm"}
SORT_SWEEPS, SORT_LAUNCHES = 10, 12
"""The gradient of an embedding sorts the ids, cuts them into parts of one id each, and adds those up."""
LIST_TENSORS, LIST_CHUNK, LIST_CHUNKS = 110, 65_536, 320
"""What one launch of a kernel over a list takes at most: tensors, numbers of a chunk, chunks."""


class UnknownOperationError(Exception):
    """Nobody has written down what an operation costs: it must not count as nothing."""


class WorkList(TorchDispatchMode):
    """While open, whatever runs on the device is added to `done`. Raises UnknownOperationError."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.done = device, list[Work]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(tensor.device == self.device for tensor in tensors((args, made, list((kwargs or {}).values())))):
            self.done += work_of(func, args, kwargs or {}, made)
        return made


def work_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> list[Work]:
    """Of one aten operation: one entry, or none for a view or an allocation."""
    name, size = func._schema.name.partition("::")[2], traffic(func, args, kwargs, made)
    if name in WITHOUT_KERNEL:
        return []
    if name in PRODUCTS:
        *_, left, right = tensors(args)
        return [Work(name=name, bytes=size, flops=2.0 * prod(left.shape) * right.shape[-1], unit="product")]
    if name in GATHERS:
        indices = [tensor for tensor in tensors(args) if not tensor.is_floating_point()]
        return [Work(name=name, bytes=2 * moved(made) + sum(map(moved, indices)))]
    if name in SCATTERS:
        whole, indices, source = tensors(args)
        copied = 0 if name.endswith("_") else 2 * moved(whole)
        return [Work(name=name, bytes=copied + 3 * moved(source) + moved(indices), launches=1 if copied == 0 else 2)]
    if name in PADDED:
        return [Work(name=name, bytes=moved(made) + 2 * moved(args[0]), launches=2)]
    if name == "embedding_dense_backward":
        sorting = SORT_SWEEPS * 2 * moved(args[1])
        return [Work(name=name, bytes=size + sorting, launches=SORT_LAUNCHES)]
    if name.startswith("_foreach_"):
        chunks = sum(ceil(tensor.numel() / LIST_CHUNK) for tensor in args[0])
        calls = max(ceil(len(args[0]) / LIST_TENSORS), ceil(chunks / LIST_CHUNKS))
        return [Work(name=name, bytes=size, launches=calls)]
    if name not in SWEEPS:
        raise UnknownOperationError(f"nobody knows what {func} costs: give it a rule in {__file__}")
    across = name in COPIES and len({tensor.device for tensor in tensors((args, made))}) > 1
    return [Work(name=name, bytes=size / 2 if across else size, unit="link" if across else "memory")]


def traffic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> int:
    """Bytes that an operation reads and writes when it touches each of its tensors once, as its schema says."""
    name, total, changed = func._schema.name.partition("::")[2], 0, set[int]()
    given = [*zip(func._schema.arguments, args, strict=False)]
    given += [(argument, kwargs[argument.name]) for argument in func._schema.arguments if argument.name in kwargs]
    for argument, value in given:
        writes = argument.alias_info is not None and argument.alias_info.is_write
        reads = not writes or not (argument.is_out or name in OVERWRITES)
        for tensor in tensors(value):
            total += moved(tensor) * (reads + writes)
            changed |= {id(tensor)} if writes else set()
    return total + sum(moved(tensor) for tensor in tensors(made) if id(tensor) not in changed)


def moved(tensor: Tensor) -> int:
    """Bytes of the numbers that there are: along an expanded axis they are the same ones."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride) * tensor.itemsize


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)
