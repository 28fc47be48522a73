"""Initial weights: a function of the seed and the tensor's name, so that no layout and no objective changes them."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from megatron_ettin.config.run import ModelConfig, RunConfig
from megatron_ettin.config.weights import shapes
from megatron_ettin.model.canonical import canonical_parameters
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.parallel.seeds import generator


def initial_tensor(model: ModelConfig, seed: int, name: str) -> Tensor:
    """The full initial tensor of a canonical name, fp32 on the CPU: norms 1, bias 0, matrices truncated normal."""
    shape = shapes(model)[name]
    if name == "head.bias":
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    std, cut = standard_deviation(model, name), model.initial_cutoff
    return torch.nn.init.trunc_normal_(
        torch.empty(shape), std=std, a=-cut * std, b=cut * std, generator=generator("cpu", "initial", seed, name)
    )


def standard_deviation(model: ModelConfig, name: str) -> float:
    """Spread of a matrix: those that write into the residual stream start smaller, the more the deeper the model."""
    writes = name.endswith(("attention_out.weight", "mlp_out.weight"))
    return model.initial_std / sqrt(2 * model.layers) if writes else model.initial_std


def initialize_weights(models: list[EttinModel], config: RunConfig, groups: Groups) -> None:
    """Set every parameter of this rank. One full tensor at a time is in memory."""
    for parameter in canonical_parameters(models):
        full = initial_tensor(config.model, config.seed, parameter.name)
        parameter.take(full, groups.tensor.rank, groups.tensor.size, config.model.heads)
