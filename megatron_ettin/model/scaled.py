"""Megatron-Core's linear layers with torch's products in fp8."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from typing import Any

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_ettin.kernels.scaled import ScaledLinear


def _scaled(
    self: Any,
    input: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: ProcessGroup | None,
    **_: Any,
) -> Tensor:
    """Stands for what multiplies in a linear layer of Megatron-Core's, whose arguments these are."""
    if bias is not None:
        raise ValueError("linear layers in fp8 have no bias")
    group = tp_group if sequence_parallel or allreduce_dgrad else None
    output: Tensor = ScaledLinear.apply(  # type: ignore[no-untyped-call]
        input, weight, getattr(weight, "main_grad", None), group, sequence_parallel
    )
    return output


class ScaledColumns(ColumnParallelLinear):  # type: ignore[misc]
    """Split by outputs."""

    _forward_impl = _scaled


class ScaledRows(RowParallelLinear):  # type: ignore[misc]
    """Split by inputs."""

    _forward_impl = _scaled
