"""What kernels read and write, counted by Triton's interpreter, which tests/conftest.py asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


@dataclass
class Traffic:
    """Bytes that kernels have moved."""

    read: int = 0
    written: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what kernels load and store inside, masked elements left out."""
    traffic = Traffic()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        traffic.read += int(mask.data.sum()) * item(pointers)
        return load(self, pointers, mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.written += int(mask.data.sum()) * item(pointers)
        return store(self, pointers, value, mask, *rest)

    with (
        mock.patch.object(InterpreterBuilder, "create_masked_load", create_masked_load),
        mock.patch.object(InterpreterBuilder, "create_masked_store", create_masked_store),
    ):
        yield traffic


@contextlib.contextmanager
def bf16_products() -> Iterator[None]:
    """Inside, products of bf16 numbers are those of their values: the interpreter multiplies their bits as integers."""
    dot = InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    with mock.patch.object(InterpreterBuilder, "create_dot", create_dot):
        yield


def item(pointers: Any) -> int:
    """Bytes of what a block of pointers points at."""
    return int(pointers.get_element_ty().primitive_bitwidth) // 8
