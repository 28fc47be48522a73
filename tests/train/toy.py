"""A small tensor-parallel model on Megatron-Core's layers, for tests of the optimizer and of checkpoints alone."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import MegatronModule, TransformerConfig

from megatron_ettin.config.overlapping import overlaps
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.train.optimizer import build_optimizer
from megatron_ettin.train.parts import wrap

WIDTH, INNER = 24, 40
SHAPES = {"first.weight": (INNER, WIDTH), "second.weight": (WIDTH, INNER), "scale": (WIDTH,), "tail": (7, 3)}
SPLIT = {"first.weight": 0, "second.weight": 1}


class Toy(MegatronModule):
    """Two split matrices, a vector and an odd-sized matrix that every tensor rank holds whole."""

    def __init__(self, config, groups):
        super().__init__(config)
        options = {
            "config": config, "init_method": torch.nn.init.zeros_, "bias": False, "tp_group": groups.collection.tp,
            "skip_bias_add": True,
        }  # fmt: skip
        self.first = ColumnParallelLinear(WIDTH, INNER, gather_output=False, **options)
        self.second = RowParallelLinear(INNER, WIDTH, input_is_parallel=True, **options)
        self.scale = torch.nn.Parameter(torch.zeros(WIDTH))
        self.tail = torch.nn.Parameter(torch.zeros(7, 3))

    def forward(self, x):
        y, _ = self.second(torch.tanh(self.first(x)[0]))
        return (y * self.scale).sum() + (self.tail * self.tail).sum()


def whole_tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def local_part(name, whole, groups):
    if name not in SPLIT:
        return whole
    return whole.chunk(groups.tensor.size, dim=SPLIT[name])[groups.tensor.rank]


def toy_parts(layout: LayoutConfig, groups, *, precision="fp32", bucket=None):
    """The toy wrapped for data parallelism, with weights from ``whole_tensors(0)``, and its optimizer."""
    config = recipe("17m", "mlm", "pretrain")
    config = replace(config, layout=layout, compute=replace(config.compute, precision=precision))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model_config = TransformerConfig(
        num_layers=1, hidden_size=WIDTH, num_attention_heads=4, tensor_model_parallel_size=layout.tensor,
        calculate_per_token_loss=True, params_dtype=dtype, bf16=precision != "fp32",
    )  # fmt: skip
    model = Toy(model_config, groups).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(local_part(name, whole_tensors(0)[name], groups))
    chunks = wrap([model], groups, overlap=overlaps(config, "cpu"), bucket_size=bucket)
    sizes = [math.prod(SHAPES[name]) for name, _ in model.named_parameters()]
    return config, chunks, build_optimizer(chunks, sizes, config, groups)


def set_gradients(chunks, groups, step, scale=1.0):
    """Reduced gradients as a backward pass would leave them: each data rank valid in its own part only."""
    wholes = whole_tensors(100 + step)
    for chunk in chunks:
        for name, parameter in chunk.module.named_parameters():
            parameter.main_grad.copy_(local_part(name, wholes[name], groups) * scale)
