"""The model written out plainly in float64, from the canonical tensors: the oracle that knows neither library."""

# T tokens, H hidden, N heads, D head size, V vocabulary

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from megatron_ettin.config.run import ModelConfig


def random_tensors(model: ModelConfig, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights large enough that attention is far from uniform, norms and biases away from their start.

    Larger ones make attention choose one key by a hair, so that rounding decides and no two programs agree.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        is_norm = len(shape) == 1 and name != "head.bias"
        scale = (1.6 if "qkv" in name else 0.8) / math.sqrt(model.hidden)
        tensors[name] = 1 + 0.2 * noise if is_norm else noise * scale
    return tensors


def reference_logits(model: ModelConfig, tensors: Mapping[str, Tensor], ids_T: Tensor, causal: bool) -> Tensor:
    """Logits [T, V] of one piece."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    x_TH = _norm(weights["embedding.weight"][ids_T], weights["embedding_norm.weight"], model)
    for layer in range(model.layers):
        part = {name.split(".", 2)[2]: t for name, t in weights.items() if name.startswith(f"layers.{layer}.")}
        normed_TH = _norm(x_TH, part["attention_norm.weight"], model) if layer else x_TH
        x_TH = x_TH + _attention(model, part, normed_TH, layer % model.global_every == 0, causal)
        gated, linear = (_norm(x_TH, part["mlp_norm.weight"], model) @ part["mlp_in.weight"].T).chunk(2, dim=-1)
        x_TH = x_TH + (_gelu(gated) * linear) @ part["mlp_out.weight"].T
    x_TH = _norm(x_TH, weights["final_norm.weight"], model)
    x_TH = _norm(_gelu(x_TH @ weights["head.dense.weight"].T), weights["head.norm.weight"], model)
    return x_TH @ weights["embedding.weight"].T + weights["head.bias"]


def _attention(model: ModelConfig, part: Mapping[str, Tensor], x_TH: Tensor, is_global: bool, causal: bool) -> Tensor:
    base = model.rope_base_global if is_global else model.rope_base_local
    tokens, size = len(x_TH), model.hidden // model.heads
    query, key, value = ((x_TH @ w.T).view(tokens, model.heads, size) for w in part["qkv.weight"].chunk(3))
    query, key = _rotate(query, base), _rotate(key, base)
    scores_NTT = torch.einsum("tnd,snd->nts", query, key) / math.sqrt(size)
    scores_NTT = scores_NTT.masked_fill(~_visible(model, tokens, is_global, causal), float("-inf"))
    mixed = torch.einsum("nts,snd->tnd", scores_NTT.softmax(-1), value)
    return mixed.reshape(tokens, model.hidden) @ part["attention_out.weight"].T


def _visible(model: ModelConfig, tokens: int, is_global: bool, causal: bool) -> Tensor:
    left = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    if causal:
        return (left >= 0) & (is_global | (left <= model.causal_window))
    return (left.abs() <= model.window) | torch.tensor(is_global)


def _rotate(x_TND: Tensor, base: float) -> Tensor:
    tokens, _, size = x_TND.shape
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None, None] * frequency
    first, second = x_TND.chunk(2, dim=-1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def _norm(x: Tensor, weight: Tensor, model: ModelConfig) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + model.norm_epsilon) * weight


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
