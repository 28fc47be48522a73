"""The run's model and layout as Megatron-Core's TransformerConfig."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from typing import Any

import torch
import torch.nn.functional as functional
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.placement import layer_placement
from megatron_ettin.model.layer import fp8_kernels
from megatron_ettin.parallel.groups import Groups

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
FP8_RECIPES = {"delayed": "delayed", "current": "tensorwise", "blocks": "blockwise"}
"""Megatron-Core's names of the recipes."""


def transformer_config(config: RunConfig, groups: Groups) -> TransformerConfig:
    """Megatron-Core's view of the run. Fusions that approximate (tanh GeGLU) or need kernels we do not use stay off."""
    model, layout, compute, dtype = config.model, config.layout, config.compute, DTYPES[config.compute.precision]
    options: dict[str, Any] = {}
    if compute.precision == "fp8" and fp8_kernels(config) == "te":  # 4 bits of exponent forward, 5 backward
        options |= {
            "fp8": "hybrid",
            "fp8_recipe": FP8_RECIPES[compute.fp8_recipe],
            "first_last_layers_bf16": compute.fp8_ends_in_bf16,
        }
    if layout.recompute != "none":
        options |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        ffn_hidden_size=model.intermediate,
        num_attention_heads=model.heads,
        kv_channels=model.hidden // model.heads,
        hidden_dropout=model.output_dropout,
        attention_dropout=0.0,
        layernorm_epsilon=model.norm_epsilon,
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=functional.gelu,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        perform_initialization=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        calculate_per_token_loss=True,
        deterministic_mode=compute.deterministic and groups.device.kind == "cuda",
        tensor_model_parallel_size=layout.tensor,
        sequence_parallel=layout.sequence_parallel and layout.tensor > 1,
        context_parallel_size=layout.context,
        **options,
        **_pipeline(config, groups),
    )


def _pipeline(config: RunConfig, groups: Groups) -> dict[str, Any]:
    layout = config.layout
    if layout.pipeline == 1:
        return {}
    stages = [["decoder"] * count for count in layer_placement(config)]
    stages[0].insert(0, "embedding")
    stages[-1].append("loss")
    # Two interleaved stages exchange forward and backward messages with the same neighbour: batched point-to-point
    # calls then pair the wrong ones and gradients are silently wrong.
    unbatched = layout.pipeline == 2 and layout.virtual_pipeline > 1
    return {
        "pipeline_model_parallel_size": layout.pipeline,
        "virtual_pipeline_model_parallel_size": layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        "pipeline_model_parallel_layout": stages,
        "overlap_p2p_comm": unbatched,
        "batch_p2p_comm": not unbatched,
        # Else every message makes the host wait for the device, for the sake of torch versions of long ago.
        "batch_p2p_sync": False,
        # Gloo reads an output while it is being sent: freeing it early would send garbage.
        "deallocate_pipeline_outputs": groups.device.kind == "cuda",
    }
