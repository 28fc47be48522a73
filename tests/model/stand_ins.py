"""Recording stand-ins for GPU packages: their real signatures, the result by definition, every call kept."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.parallel.groups import Axis

Calls = list[dict[str, Any]]


def by_definition(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, window: tuple[int, int]
) -> Tensor:
    """Variable-length attention as the kernels define it: queries and keys of a segment are aligned at its end."""
    outputs = []
    bounds = zip(cu_q.tolist(), cu_q.tolist()[1:], cu_k.tolist(), cu_k.tolist()[1:], strict=False)
    for first_q, last_q, first_k, last_k in bounds:
        q, k, v = query[first_q:last_q], key[first_k:last_k], value[first_k:last_k]
        offset = torch.arange(len(k))[None] - torch.arange(len(q))[:, None] - (len(k) - len(q))
        seen = torch.ones_like(offset, dtype=torch.bool)
        if window[0] >= 0:
            seen &= offset >= -window[0]
        if window[1] >= 0:
            seen &= offset <= window[1]
        scores = torch.einsum("qnd,knd->nqk", q, k) / q.shape[-1] ** 0.5
        outputs.append(torch.einsum("nqk,knd->qnd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v))
    return torch.cat(outputs)


def varlen(calls: Calls) -> Any:
    """torch.nn.attention.varlen.varlen_attn of torch 2.13."""

    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
        enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
    ):  # fmt: skip
        calls.append({"window_size": window_size, "scale": scale, "max_q": max_q, "max_k": max_k})
        return by_definition(query, key, value, cu_seq_q, cu_seq_k, window_size)

    return varlen_attn


def flash_attn(calls: Calls) -> types.ModuleType:
    """flash_attn 2.8: the arguments of its variable-length function."""

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
        return_attn_probs=False, block_table=None,
    ):  # fmt: skip
        calls.append({"window_size": window_size, "scale": softmax_scale, "deterministic": deterministic})
        return by_definition(q, k, v, cu_seqlens_q, cu_seqlens_k, (window_size[0], 0 if causal else window_size[1]))

    module: Any = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func
    return module


def flash_attn_interface(calls: Calls) -> types.ModuleType:
    """flash-attn 3: the arguments of its variable-length function, which gives the log-sums as well."""

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
        softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
        sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        calls.append({"window_size": window_size, "scale": softmax_scale, "deterministic": deterministic})
        window = (window_size[0], 0 if causal else window_size[1])
        return by_definition(q, k, v, cu_seqlens_q, cu_seqlens_k, window), None

    module: Any = types.ModuleType("flash_attn_interface")
    module.flash_attn_varlen_func = flash_attn_varlen_func
    return module


def transformer_engine(calls: Calls) -> dict[str, types.ModuleType]:
    """transformer_engine.pytorch 2.x: DotProductAttention, output [T, N * D]."""

    class DotProductAttention(torch.nn.Module):
        def __init__(
            self, num_attention_heads, kv_channels, num_gqa_groups=None, attention_dropout=0.0, qkv_format="sbhd",
            attn_mask_type="causal", window_size=None, sequence_parallel=False, tp_size=1, get_rng_state_tracker=None,
            tp_group=None, layer_number=None, attention_type="self", cp_group=None, cp_global_ranks=None,
            cp_stream=None, cp_comm_type="p2p", softmax_scale=None,
        ):  # fmt: skip
            super().__init__()
            self.made = {
                "heads": num_attention_heads, "channels": kv_channels, "dropout": attention_dropout,
                "layer_number": layer_number, "scale": softmax_scale,
            }  # fmt: skip

        def forward(
            self, query_layer, key_layer, value_layer, attention_mask=None, qkv_format=None, cu_seqlens_q=None,
            cu_seqlens_kv=None, cu_seqlens_q_padded=None, cu_seqlens_kv_padded=None, max_seqlen_q=None,
            max_seqlen_kv=None, attn_mask_type=None, window_size=None,
        ):  # fmt: skip
            assert attention_mask is None
            calls.append({**self.made, "format": qkv_format, "mask": attn_mask_type, "window_size": window_size})
            output = by_definition(query_layer, key_layer, value_layer, cu_seqlens_q, cu_seqlens_kv, window_size)
            return output.flatten(1)

    package: Any = types.ModuleType("transformer_engine")
    package.pytorch = types.ModuleType("transformer_engine.pytorch")
    package.pytorch.DotProductAttention = DotProductAttention
    return {"transformer_engine": package, "transformer_engine.pytorch": package.pytorch}


@dataclass(frozen=True)
class WholeStream:
    """Stands in for the exchange of one context rank: it knows the keys and values of all of them."""

    axis: Axis
    kv_GN2D: Tensor
    start: int

    def gather(self, kv_TN2D: Tensor) -> Tensor:
        return self.kv_GN2D

    def halo(self, kv_TN2D: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
        widened = torch.nn.functional.pad(self.kv_GN2D, (0, 0, 0, 0, 0, 0, left, right))
        stop = self.start + left + kv_TN2D.shape[0]
        return widened[self.start : self.start + left], widened[stop : stop + right]
