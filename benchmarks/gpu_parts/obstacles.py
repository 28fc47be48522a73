"""Why nothing can be measured here, before anything is tried: one line each, with the remedy."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels.kind import require_triton

LEAST_CAPABILITY = (8, 0)
"""Ampere: the first generation that computes in bf16."""
LEAST_FREE = 12 << 30
"""Bytes that the ceilings take, with a margin; a step of the smallest model takes fewer rows where memory is short."""


def obstacle() -> str | None:
    """The first one; None: a GPU can be measured."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or take --dry-run"
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
        return f"{name} has compute capability {found} and bf16 needs {least}; take an A100, H100 or later one"
    if find_spec("triton") is None:
        return "Triton is not installed, and own kernels need it; install the version that this torch asks for"
    free, _ = torch.cuda.mem_get_info()
    if free < LEAST_FREE:
        left, least = (f"{size / 2**30:.1f} GiB" for size in (free, LEAST_FREE))
        return f"{name} has {left} of memory free and needs {least}; end what nvidia-smi lists, or take another GPU"
    try:
        require_triton(torch.device("cuda"))
    except ConfigError as error:
        return str(error)
    return None
