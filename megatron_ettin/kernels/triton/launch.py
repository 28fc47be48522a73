"""How kernels are started, and what one costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class KernelCost:
    """The memory traffic and the arithmetic of one call, each byte counted once where it is read or written once."""

    read: int
    """Bytes."""
    written: int
    """Bytes."""
    operations: int
    """Floating-point operations; an exponential, a root and an error function count as one."""
    products: int = 0
    """How many of them are in matrix products, by tensor cores."""
    exponentials: int = 0
    """How many of them are exponentials which those products wait for."""

    @property
    def bytes(self) -> int:
        """Traffic in both directions."""
        return self.read + self.written


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start a kernel on the device of its tensors; an empty grid starts nothing."""
    if 0 not in grid:
        kernel[grid](*arguments, **constants)
