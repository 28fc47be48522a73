"""The independent oracle: transformers' ModernBERT with weights given by canonical names, one piece at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
)

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import ModelConfig, RunConfig

_PARTS = {
    "attention_norm.weight": "attn_norm.weight",
    "qkv.weight": "attn.Wqkv.weight",
    "attention_out.weight": "attn.Wo.weight",
    "mlp_norm.weight": "mlp_norm.weight",
    "mlp_in.weight": "mlp.Wi.weight",
    "mlp_out.weight": "mlp.Wo.weight",
}
_OUTSIDE = {
    "embedding.weight": "model.embeddings.tok_embeddings.weight",
    "embedding_norm.weight": "model.embeddings.norm.weight",
    "final_norm.weight": "model.final_norm.weight",
    "head.bias": "decoder.bias",
}


def peer(config: RunConfig, weights: dict[str, Tensor]) -> Any:
    """transformers' model of the run's objective, in evaluation mode."""
    if OBJECTIVES[config.objective].causal:
        model = ModernBertDecoderForCausalLM._from_config(
            ModernBertDecoderConfig(**_fields(config.model)), attn_implementation="sdpa"
        )
    else:
        model = ModernBertForMaskedLM._from_config(
            ModernBertConfig(**_fields(config.model)), attn_implementation="sdpa"
        )
    state = renamed(weights, OBJECTIVES[config.objective].causal)
    model.load_state_dict(state | {"decoder.weight": weights["embedding.weight"]}, strict=True)
    return model.eval()


def logits(model: Any, batch: Batch) -> Tensor:
    """Logits of every position, each piece computed on its own, [B * T, V]."""
    ids = torch.from_numpy(batch.input_ids_BT.reshape(-1)).long()
    bounds = batch.cu_seqlens_S.tolist()
    pieces = [ids[None, start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
    return torch.cat([model(input_ids=piece, attention_mask=torch.ones_like(piece)).logits[0] for piece in pieces])


def renamed(tensors: dict[str, Tensor], causal: bool) -> dict[str, Tensor]:
    """Canonical names to those of transformers; a decoder stores queries, keys and values apart."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _OUTSIDE:
            result[_OUTSIDE[name]] = tensor
        elif name.startswith("head."):
            result["lm_" * causal + name] = tensor
        else:
            _, layer, part = name.split(".", 2)
            prefix = f"model.layers.{layer}."
            if part == "qkv.weight" and causal:
                result |= {f"{prefix}attn.{q}_proj.weight": x for q, x in zip("qkv", tensor.chunk(3), strict=True)}
            else:
                result[prefix + _PARTS[part]] = tensor
    return result


def _fields(model: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": 8192,
        "norm_eps": model.norm_epsilon,
        "local_attention": 2 * model.window,
        "layer_types": [
            "sliding_attention" if layer % model.global_every else "full_attention" for layer in range(model.layers)
        ],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": model.rope_base_global},
            "sliding_attention": {"rope_type": "default", "rope_theta": model.rope_base_local},
        },
        "tie_word_embeddings": True,
        # transformers gives the embedding row of [PAD] no gradient: no batch uses the last id.
        "pad_token_id": model.vocabulary - 1,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    }
