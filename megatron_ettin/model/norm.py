"""LayerNorm with a weight and no bias, of hidden states or of a sum that it computes on the way."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from dataclasses import dataclass
from typing import overload

import torch
import torch.nn.functional as functional
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_ettin.kernels.dropout import Dropout
from megatron_ettin.kernels.pointwise import AddAndNorm


@dataclass(frozen=True, kw_only=True)
class Sum:
    """residual + dropout(x), not computed yet: a kernel makes it together with the norm that reads it."""

    residual: Tensor
    x: Tensor
    kernel: AddAndNorm
    dropout: Dropout | None = None


class Norm(torch.nn.Module):
    """LayerNorm over the last axis, scale only; statistics in fp32. Megatron-Core's own always have a bias.

    `along_sequence` marks a norm that sees a shard of the sequence under sequence parallelism: its gradient is then
    summed over the tensor ranks.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, along_sequence: bool = True
    ) -> None:
        super().__init__()
        self.epsilon = eps
        self.weight = torch.nn.Parameter(
            torch.ones(hidden_size, dtype=config.params_dtype, device=torch.cuda.current_device())
        )
        self.weight.sequence_parallel = along_sequence and config.sequence_parallel  # type: ignore[attr-defined]

    @overload
    def forward(self, x: Tensor) -> Tensor: ...

    @overload
    def forward(self, x: Sum) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor | Sum) -> Tensor | tuple[Tensor, Tensor]:
        """The norm, of the shape and dtype of `x`; of a sum (sum, norm).

        Megatron-Core waits for a module's weights where it is called: nobody else may read them.
        """
        if isinstance(x, Sum):
            return x.kernel(x.residual, x.x, x.dropout, self.weight, self.epsilon)
        return functional.layer_norm(x, self.weight.shape, self.weight, None, self.epsilon)
