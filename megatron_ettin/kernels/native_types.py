"""What the kernels of the extension take; everything else goes the way of plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16)
"""What the kernels read and write; they compute in float32."""


def is_native(x: Tensor) -> bool:
    """Whether the kernels of the extension take this tensor: on a CPU, in float32 or bfloat16."""
    return x.device.type == "cpu" and x.dtype in TYPES
