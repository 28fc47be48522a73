"""Imports Megatron-Core; to be imported before anything of Megatron-Core.

It does without torch's compiler: Megatron-Core decorates its fused functions by `torch.compile`, which loads the
compiler when the modules are imported, more than a third of the CPU time that a process needs to start. None of these
functions is used here. What other packages decorate is left as it is, and so is `torch.compile` afterwards.

Optional packages change what Megatron-Core does: the genuine ones are used, anything else is refused.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.errors import ConfigError

MARKS = {
    "apex": ("multi_tensor_apply", "normalization", "optimizers"),
    "transformer_engine": ("pytorch", "common"),
}
"""Sub-packages that NVIDIA's own package has; an unrelated one of that name (as on PyPI) lacks them."""


def present(name: str) -> bool:
    """Whether a package can be imported; does not import it."""
    return importlib.util.find_spec(name) is not None


def genuine(name: str) -> bool:
    """Whether a package of `MARKS` is there and is NVIDIA's; does not import it."""
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return any(all((Path(folder) / mark).exists() for mark in MARKS[name]) for folder in folders)


def check_packages(cuda: bool) -> None:
    """Raise ConfigError for a package that would change Megatron-Core's behaviour or break its import."""
    for name in MARKS:
        if present(name) and not genuine(name):
            raise ConfigError(
                f"the installed package {name} is not NVIDIA's, and Megatron-Core would use it all the same; "
                f"pip uninstall {name}"
            )
    if not cuda and present("transformer_engine"):
        raise ConfigError(
            "transformer_engine is installed, but this machine has no CUDA device: Megatron-Core cannot be imported "
            "then; pip uninstall transformer-engine here, it works on GPU machines only"
        )


def _import() -> None:
    """Import Megatron-Core; where that fails because of a package of `MARKS`, say which one and what to do."""
    compile_function: Any = torch.compile

    def compile_others(function: Any = None, **options: Any) -> Any:
        """torch.compile, but for Megatron-Core's functions, which are returned as they are."""
        if function is None:
            return lambda decorated: compile_others(decorated, **options)
        if str(getattr(function, "__module__", "")).startswith("megatron."):
            return function
        return compile_function(function, **options)

    torch.compile = compile_others  # type: ignore[assignment]
    try:
        import megatron.core  # noqa: F401
    except Exception:
        check_packages(torch.cuda.is_available())
        raise
    finally:
        torch.compile = compile_function


_import()
