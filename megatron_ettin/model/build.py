"""From a run to this rank's part of its model, with its initial weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import padded_vocabulary, tensor_sizes
from megatron_ettin.cost.hardware import H100_CLUSTER
from megatron_ettin.cost.logits import WIDE_SHARED_MEMORY, keeps_logits
from megatron_ettin.cost.memory import LOSS_CHUNK_BYTES
from megatron_ettin.cost.placement import layer_placement
from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels.kind import KernelKind, kernel_kind, require_triton
from megatron_ettin.model.attention.choice import (
    Choice,
    Installed,
    attention_report,
    choices,
    installed,
    last_layer_narrows,
)
from megatron_ettin.model.attention.core import Attend, attend_by
from megatron_ettin.model.attention.trial import require_exact, usable
from megatron_ettin.model.canonical import canonical_parameters
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.model.initialize import initialize_weights
from megatron_ettin.model.layer import fp8_report, layer_spec, refuse_old_generation
from megatron_ettin.model.loss import chunk_labels
from megatron_ettin.model.pattern import layer_kinds
from megatron_ettin.model.settings import transformer_config
from megatron_ettin.parallel.device import compute_capability
from megatron_ettin.parallel.groups import Groups

logger = logging.getLogger(__name__)

WHOLE_LOGITS_ON_CPU = 1 << 30
"""Below this many bytes a CPU computes all logits at once: the products are larger and nothing else competes."""
CHUNK_ON_CPU = 256 << 20
"""Else it makes logits in chunks of this many bytes."""


def build_model(config: RunConfig, groups: Groups, *, initial: bool = True) -> list[EttinModel]:
    """This rank's pipeline stages, one for each virtual chunk, with initial weights that do not depend on the layout.

    Without ``initial`` the weights are left as memory was, for a caller who sets them all.
    Parameters have the type of `compute.precision` (bf16 for fp8). Raises ConfigError for a layout that does not
    divide the model.
    """
    check_division(config)
    refuse_old_generation(config, groups)
    megatron = transformer_config(config, groups)
    layers, last = layer_placement(config), config.model.layers - 1
    bounds = [0, *accumulate(layers)]
    has = installed(groups.device)
    made = choices(config, has)
    narrows = last_layer_narrows(config, made[-1], layers[-1])
    kernels = kernel_kind(config.compute, groups.device.kind)
    if kernels == "own":
        require_triton(groups.device.torch_device)
    keeps = logits_are_kept(config, kernels, compute_capability(groups.device))
    if groups.world.is_first:
        for line in filter(None, [*attention_report(made, layer_kinds(config), narrows), fp8_report(config)]):
            logger.info(line)
        if not keeps:
            logger.info(f"loss: logits are computed twice, not written: faster at model.hidden={config.model.hidden}")
    attends = attention_of(config, made, has, groups)
    specs = [
        layer_spec(kind, config, groups, attend, narrows and kind.index == last, kernels)
        for kind, attend in zip(layer_kinds(config), attends, strict=True)
    ]
    models = []
    for chunk in range(config.layout.virtual_pipeline):
        pipeline_stage = chunk * groups.pipeline.size + groups.pipeline.rank
        models.append(
            EttinModel(
                config=megatron,
                model=config.model,
                groups=groups,
                layers=specs[bounds[pipeline_stage] : bounds[pipeline_stage + 1]],
                first=pipeline_stage == 0,
                last=pipeline_stage == len(layers) - 1,
                narrows=narrows,
                virtual_stage=chunk if config.layout.virtual_pipeline > 1 else None,
                padded_vocabulary=padded_vocabulary(config.model.vocabulary),
                loss_chunk=loss_chunk(config, groups),
                kernels=kernels,
                keeps_logits=keeps,
            )
        )
    mark_parameters(models)
    if initial:
        initialize_weights(models, config, groups)
    return models


def attention_of(config: RunConfig, made: Sequence[Choice], has: Installed, groups: Groups) -> list[Attend]:
    """What computes the attention of each layer; on a GPU tried once for each reach.

    Raises ConfigError where a package cannot be loaded or its kernel is not exact.
    """
    found, tried = [], set()
    heads, size = config.model.heads // config.layout.tensor, config.model.hidden // config.model.heads
    for kind, choice in zip(layer_kinds(config), made, strict=True):
        with usable(choice.backend):
            attend = attend_by(choice.backend, kind, config, has)
        found.append(attend)
        foreign = choice.backend not in ("native", "sdpa") and groups.device.torch_device.type == "cuda"
        if foreign and (choice.backend, kind.reach) not in tried:
            tried.add((choice.backend, kind.reach))
            require_exact(choice.backend, attend, kind.reach, heads, size, groups.device.torch_device)
    return found


def logits_are_kept(config: RunConfig, kernels: KernelKind, capability: tuple[int, int] | None) -> bool:
    """Whether logits are written to memory: unless own kernels can do without, on this GPU, faster."""
    able = kernels == "own" and config.compute.precision != "fp32"
    fitting = capability is not None and capability[0] in WIDE_SHARED_MEMORY
    return not (able and fitting) or keeps_logits(config.model.hidden, H100_CLUSTER)


def loss_chunk(config: RunConfig, groups: Groups) -> int:
    """Labels whose logits are made at once on this device."""
    rows = padded_vocabulary(config.model.vocabulary) // config.layout.tensor
    most = config.layout.micro_batch_rows * config.data.row_length
    budget = config.compute.loss_chunk_bytes
    if not budget:
        budget = LOSS_CHUNK_BYTES
        if groups.device.kind == "cpu":
            budget = 4 * rows * most if 4 * rows * most <= WHOLE_LOGITS_ON_CPU else CHUNK_ON_CPU
    return chunk_labels(budget, rows)


def check_division(config: RunConfig) -> None:
    """Raise ConfigError when the tensor ranks do not divide heads, intermediate size and vocabulary."""
    model, tensor = config.model, config.layout.tensor
    if model.hidden % model.heads or (model.hidden // model.heads) % 2:
        raise ConfigError(f"model.hidden={model.hidden} must be an even multiple of model.heads={model.heads}")
    sizes = tensor_sizes(model)
    if tensor not in sizes:
        raise ConfigError(
            f"layout.tensor={tensor} does not divide heads={model.heads}, intermediate={model.intermediate} and "
            f"vocabulary={padded_vocabulary(model.vocabulary)} of {model.size}; use {', '.join(map(str, sizes))}"
        )


def mark_parameters(models: list[EttinModel]) -> None:
    """Tell Megatron-Core what a tensor does not show: whether the tensor ranks share it, and along which axis."""
    for entry in canonical_parameters(models):
        parameter: Any = entry.parameter
        parameter.tensor_model_parallel = entry.sharding != "copied"
        parameter.partition_dim = {"copied": -1, "columns": 1}.get(entry.sharding, 0)
        parameter.partition_stride = 2 if entry.sharding == "halves" else 1
