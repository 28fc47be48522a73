"""Optional packages that change what Megatron-Core does: the genuine ones are used, anything else is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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
