"""Imports Megatron-Core without torch's compiler; to be imported before anything of Megatron-Core.

Megatron-Core decorates its fused functions by `torch.compile`, which loads the compiler when the modules are imported:
more than a third of the CPU time that a process needs to start. None of these functions is used here. What other
packages decorate is left as it is, and so is `torch.compile` afterwards.
"""

from __future__ import annotations

from typing import Any

import torch


def _spare_megatron(compile_function: Any) -> Any:
    """The same function, but for those of Megatron-Core, which it returns as they are."""

    def compile_others(function: Any = None, **options: Any) -> Any:
        if function is None:
            return lambda decorated: compile_others(decorated, **options)
        if str(getattr(function, "__module__", "")).startswith("megatron."):
            return function
        return compile_function(function, **options)

    return compile_others


def _import() -> None:
    before: Any = torch.compile
    torch.compile = _spare_megatron(before)
    try:
        import megatron.core  # noqa: F401
    finally:
        torch.compile = before


_import()
