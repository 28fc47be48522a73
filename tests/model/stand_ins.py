"""Recording stand-ins for GPU packages: their real signatures, the result by definition, every call kept."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

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


@dataclass
class Switch:
    """torch's choice among versions of FlashAttention; what it was told."""

    log: list[str] = field(default_factory=list)
    active: str | None = None

    def activate(self, name: str) -> None:
        assert name in torch.nn.attention.list_flash_attention_impls()
        self.log.append(name)
        self.active = name

    def current(self) -> str | None:
        return self.active

    def restore(self) -> None:
        self.log.append("restored")
        self.active = None


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


def attention_of_transformer_engine(calls: Calls) -> dict[str, types.ModuleType]:
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
    ranks: int = 1

    def gather(self, kv_TN2D: Tensor) -> Tensor:
        return self.kv_GN2D

    def halo(self, kv_TN2D: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
        widened = torch.nn.functional.pad(self.kv_GN2D, (0, 0, 0, 0, 0, 0, left, right))
        stop = self.start + left + kv_TN2D.shape[0]
        return widened[self.start : self.start + left], widened[stop : stop + right]

    def scatter_sum(self, gradient_GN2D: Tensor) -> Tensor:
        """This rank's slice of what its own queries give; the other ranks' queries are not there."""
        return gradient_GN2D[self.start :][: gradient_GN2D.shape[0] // self.ranks]


@dataclass
class Fp8:
    """What Transformer Engine was asked for: recipes, and for each call of a linear layer the recipe in force."""

    recipes: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[str, str | None]] = field(default_factory=list)
    current: str | None = None

    def recipe(self, name: str) -> type:
        """A recipe's class, which keeps what it is made with."""
        log = self

        class Recipe:
            def __init__(self, **options: Any) -> None:
                self.name = name
                log.recipes.append({"recipe": name, **options})

        return Recipe

    @contextmanager
    def fp8_autocast(self, enabled: bool, fp8_recipe: Any, fp8_group: Any) -> Iterator[None]:
        """Transformer Engine's context: layers called inside compute in fp8."""
        assert enabled
        before, self.current = self.current, fp8_recipe.name
        try:
            yield
        finally:
            self.current = before

    def layer(self, base: type, name: str) -> type:
        """A linear layer of Megatron-Core's that keeps its calls and returns a view, as Transformer Engine's does."""
        log = self

        class Layer(base):  # type: ignore[misc, valid-type]
            def forward(self, x: Tensor, **options: Any) -> tuple[Tensor, Any]:
                log.calls.append((name, log.current))
                output, bias = super().forward(x, **options)
                return _View.apply(output), bias

        return Layer


class _View(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 1.0).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@contextmanager
def fp8(capability: tuple[int, int] = (9, 0)) -> Iterator[Fp8]:
    """Transformer Engine's linear layers and recipes, computing in bf16; Megatron-Core's own code chooses among them.

    Megatron-Core defines that code only where Transformer Engine can be imported: its source is compiled again here.
    """
    from megatron.core import fp8_utils, parallel_state
    from megatron.core.extensions import transformer_engine
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

    log = Fp8()
    recipes = types.SimpleNamespace(
        Format=types.SimpleNamespace(E4M3="e4m3", HYBRID="hybrid"),
        Float8CurrentScaling=log.recipe("current"),
        Float8BlockScaling=log.recipe("blocks"),
    )
    package = types.SimpleNamespace(
        common=types.SimpleNamespace(recipe=recipes), pytorch=types.SimpleNamespace(fp8_autocast=log.fp8_autocast)
    )
    names = {
        **vars(fp8_utils), "transformer_engine": package, "TEDelayedScaling": log.recipe("delayed"),
        "is_te_min_version": lambda _: True, "parallel_state": parallel_state,
    }  # fmt: skip
    exec(compile(_with_transformer_engine(fp8_utils), "fp8_utils", "exec"), names)
    columns, rows = log.layer(ColumnParallelLinear, "columns"), log.layer(RowParallelLinear, "rows")
    with (
        mock.patch.multiple(transformer_engine, TEColumnParallelLinear=columns, TERowParallelLinear=rows),
        mock.patch("megatron.core.transformer.transformer_block.get_fp8_context", names["get_fp8_context"]),
        mock.patch("megatron_ettin.model.layer.genuine", lambda _: True),
        mock.patch("megatron_ettin.model.layer.compute_capability", lambda _: capability),
    ):
        yield log


def _with_transformer_engine(module: types.ModuleType) -> ast.Module:
    """The two functions that choose a recipe, out of the branch that is taken where Transformer Engine is."""
    wanted = ("get_fp8_recipe", "get_fp8_context")
    for node in ast.parse(inspect.getsource(module)).body:
        inside = [part for part in getattr(node, "body", []) if getattr(part, "name", "") in wanted]
        if isinstance(node, ast.If) and len(inside) == len(wanted):
            return ast.Module(body=inside, type_ignores=[])
    raise AssertionError("Megatron-Core chooses fp8 recipes elsewhere now")
