"""LayerNorm with a weight and no bias."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import torch
import torch.nn.functional as functional
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor


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

    def forward(self, x: Tensor) -> Tensor:
        """Normalize; same shape and dtype as `x`."""
        return functional.layer_norm(x, self.weight.shape, self.weight, None, self.epsilon)
