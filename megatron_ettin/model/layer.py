"""One transformer layer: Megatron-Core's modules and shards, with the paper's order of operations."""

# T tokens of this rank (of this tensor rank under sequence parallelism), H hidden, N heads of this rank, D head size

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401
from megatron_ettin.parallel.megatron import genuine

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels.dropout import Dropout, add_dropped
from megatron_ettin.kernels.kind import KernelKind
from megatron_ettin.kernels.linear import linear
from megatron_ettin.kernels.pointwise import AddAndNorm, Rotation, TurnBack, pointwise
from megatron_ettin.kernels.rope import rotate, rotate_parts, split
from megatron_ettin.model.attention.core import Attend, CoreAttention
from megatron_ettin.model.attention.varlen import Parts
from megatron_ettin.model.norm import Norm, Sum
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.model.pattern import LayerKind
from megatron_ettin.model.scaled import ScaledColumns, ScaledRows
from megatron_ettin.parallel.device import compute_capability
from megatron_ettin.parallel.groups import Groups


class EttinAttention(SelfAttention):  # type: ignore[misc]
    """Self-attention on packed rows, with the layer's own reach and rotary base."""

    def __init__(self, *arguments: Any, turn: Rotation, turn_back: TurnBack | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.turn, self.turn_back = turn, turn_back

    def forward(self, hidden_TH: Tensor, packed: PackedRows, wanted: Wanted | None) -> Tensor:
        """Attention output [T, 1, H]; with `wanted`, its rows alone, [L, 1, H]."""
        qkv, _ = self.linear_qkv(hidden_TH)
        heads = self.num_attention_heads_per_partition
        cosine, sine = packed.rope(self.core_attention.kind.rope_base, self.hidden_size_per_attention_head, qkv.dtype)
        rotated: Tensor | Parts
        if self.turn_back is not None and self.core_attention.takes_parts:
            rotated = rotate_parts(qkv, heads, cosine, sine, self.turn, self.turn_back)
        else:
            rotated = split(rotate(qkv, heads, cosine, sine, self.turn), heads)
        mixed_TND = self.core_attention(rotated, packed, wanted)
        output, _ = self.linear_proj(mixed_TND.flatten(1)[:, None])
        result: Tensor = output
        return result


class EttinMLP(MLP):  # type: ignore[misc]
    """Gated MLP with the exact (erf) GELU; the first half of the projection is activated."""

    def __init__(self, *arguments: Any, activation: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gated_activation = activation

    def forward(self, hidden_TH: Tensor, **_: Any) -> Tensor:
        """MLP output [T, 1, H]."""
        gated, _ = self.linear_fc1(hidden_TH)
        output, _ = self.linear_fc2(self.gated_activation(gated))
        result: Tensor = output
        return result


class EttinLayer(TransformerLayer):  # type: ignore[misc]
    """x + drop(attention(norm(x))), then x + mlp(norm(x)). Only the attention output is dropped.

    `narrows`: from the attention's output on it computes only the positions that are wanted behind it.
    `add_and_norm`: adds, drops and normalizes in one kernel; None: one operation after the other.
    `defers`: its last sum is left to the first norm of the next layer.
    """

    def __init__(
        self, *arguments: Any, narrows: bool, add_and_norm: AddAndNorm | None, defers: bool, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.narrows, self.add_and_norm, self.defers = narrows, add_and_norm, defers

    def forward(
        self, hidden_states: Tensor | Sum, packed_seq_params: PackedRows, **_: Any
    ) -> tuple[Tensor | Sum, None]:
        """The layer's output, [T, 1, H] as its input, or [L, 1, H]; None is Megatron-Core's cross-attention context."""
        wanted = packed_seq_params.wanted if self.narrows else None
        if isinstance(hidden_states, Sum):
            hidden_TH, normed_TH = self.input_layernorm(hidden_states)
        else:
            hidden_TH, normed_TH = hidden_states, self.input_layernorm(hidden_states)
        attention = self.self_attention(normed_TH, packed_seq_params, wanted)
        if wanted is not None:
            hidden_TH = hidden_TH.index_select(0, wanted.positions_L)
        dropout = self._dropout(packed_seq_params, wanted) if self.hidden_dropout and self.training else None
        if self.add_and_norm is None:
            hidden_TH = hidden_TH + attention if dropout is None else add_dropped(hidden_TH, attention, dropout)
            return hidden_TH + self.mlp(self.pre_mlp_layernorm(hidden_TH)), None
        dropped = Sum(residual=hidden_TH, x=attention, dropout=dropout, kernel=self.add_and_norm)
        hidden_TH, normed_TH = self.pre_mlp_layernorm(dropped)
        output = self.mlp(normed_TH)
        if self.defers:
            return Sum(residual=hidden_TH, x=output, kernel=self.add_and_norm), None
        return hidden_TH + output, None

    def _dropout(self, packed: PackedRows, wanted: Wanted | None) -> Dropout:
        """Which numbers of this rank's tokens are dropped, or of those wanted."""
        places_T = packed.places_T if wanted is None else packed.places_T[wanted.positions_L]
        if self.config.sequence_parallel:
            places_T = places_T.chunk(self.tp_group.size())[self.tp_group.rank()]
        return Dropout(
            share=self.hidden_dropout,
            key=packed.dropout_key,
            step=packed.step,
            layer=self.layer_number - 1,
            places_T=places_T,
        )


class OwnProducts:
    """Makes a linear layer of Megatron-Core compute by our own products, weight gradients included."""

    gradient_accumulation_fusion: bool
    """Weight gradients are added to their buffers by the products."""

    def _forward_impl(self, **options: Any) -> Tensor:
        return linear(**options)


class ColumnLinear(OwnProducts, ColumnParallelLinear):  # type: ignore[misc]
    """Outputs are shared among the tensor ranks."""


class RowLinear(OwnProducts, RowParallelLinear):  # type: ignore[misc]
    """Inputs are shared among the tensor ranks."""


BF16_CAPABILITY = (8, 0)
"""The first generation of GPUs that computes in bf16: Ampere."""
FP8_CAPABILITY = {"delayed": (8, 9), "current": (8, 9), "blocks": (9, 0)}
"""The first generation of GPUs that computes a recipe in fp8: Ada, and Hopper for scales of blocks."""


def refuse_old_generation(config: RunConfig, groups: Groups) -> None:
    """Raise ConfigError for a GPU that does not compute in the precision of the run."""
    capability = compute_capability(groups.device)
    if capability is not None and capability < BF16_CAPABILITY and config.compute.precision != "fp32":
        needed, found = (".".join(map(str, version)) for version in (BF16_CAPABILITY, capability))
        raise ConfigError(
            f"compute.precision={config.compute.precision} needs a GPU of compute capability {needed} (Ampere), and "
            f"this one has {found}; use a newer one, or --compute.precision fp32 for another run"
        )


def fp8_kernels(config: RunConfig) -> Literal["te", "torch"]:
    """What computes linear layers in fp8 here. Raises ConfigError where it is not installed."""
    compute, there = config.compute, genuine("transformer_engine")
    if compute.fp8_kernels == "te" or compute.fp8_recipe != "current":
        if not there:
            raise ConfigError(
                f"compute.precision=fp8 with compute.fp8_recipe={compute.fp8_recipe}, compute.fp8_kernels="
                f"{compute.fp8_kernels} needs NVIDIA's Transformer Engine, which is not installed; use the recipe "
                "current with fp8_kernels auto, or bf16"
            )
        return "te"
    return "te" if there and compute.fp8_kernels == "auto" else "torch"


def in_fp8(config: RunConfig, layer: int) -> bool:
    """Whether the linear layers of a layer compute in fp8."""
    ends = (0, config.model.layers - 1) if config.compute.fp8_ends_in_bf16 else ()
    return config.compute.precision == "fp8" and layer not in ends


def fp8_report(config: RunConfig) -> str:
    """What computes in fp8, for the log; empty for other precisions."""
    if config.compute.precision != "fp8":
        return ""
    layers = [layer for layer in range(config.model.layers) if in_fp8(config, layer)]
    by = {
        "te": f"Transformer Engine, fp8_recipe {config.compute.fp8_recipe}",
        "torch": "torch's scaled product, each tensor by its own scale; Transformer Engine scales in fewer passes",
    }[fp8_kernels(config)]
    return f"linear layers of layers {layers[0]} to {layers[-1]} in fp8 by {by}" if layers else "no layer is in fp8"


def linear_classes(config: RunConfig, capability: tuple[int, int] | None, layer: int) -> tuple[type, type]:
    """Classes of a layer's linear layers that are split by columns and by rows.

    `capability`: of the GPU, None without one. Raises ConfigError when fp8 is asked for where it cannot be computed.
    """
    if config.compute.precision != "fp8":
        return ColumnLinear, RowLinear
    if capability is None:
        raise ConfigError("compute.precision=fp8 needs a GPU, but this machine has no CUDA device; use bf16")
    recipe, kernels = config.compute.fp8_recipe, fp8_kernels(config)
    if capability < FP8_CAPABILITY[recipe]:
        needed, found = (".".join(map(str, version)) for version in (FP8_CAPABILITY[recipe], capability))
        raise ConfigError(
            f"compute.precision=fp8 with compute.fp8_recipe={recipe} needs a GPU of compute capability {needed}, and "
            f"this one has {found}; use bf16"
        )
    if kernels == "te":  # Megatron-Core tells it which layers compute in fp8
        from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

        return TEColumnParallelLinear, TERowParallelLinear
    return (ScaledColumns, ScaledRows) if in_fp8(config, layer) else (ColumnLinear, RowLinear)


def layer_spec(
    kind: LayerKind, config: RunConfig, groups: Groups, attend: Attend, narrows: bool, kernels: KernelKind
) -> ModuleSpec:
    """Megatron-Core's description of one layer. Layer 0 has no attention norm: the embedding's norm has just run."""
    columns, rows = linear_classes(config, compute_capability(groups.device), kind.index)
    parts = pointwise(kernels)
    # Pipeline stages and layers that are computed again hand on tensors; behind the last layer nobody reads the sum.
    alone = config.layout.pipeline == 1 and config.layout.recompute == "none"
    defers = parts.add_and_norm is not None and alone and kind.index < config.model.layers - 1
    return ModuleSpec(
        module=EttinLayer,
        params={"narrows": narrows, "add_and_norm": parts.add_and_norm, "defers": defers},
        submodules=TransformerLayerSubmodules(
            input_layernorm=IdentityOp if kind.index == 0 else Norm,
            self_attention=ModuleSpec(
                module=EttinAttention,
                params={
                    "attn_mask_type": AttnMaskType.no_mask,
                    "turn": parts.rotate,
                    "turn_back": parts.turn_back,
                },
                submodules=SelfAttentionSubmodules(
                    linear_qkv=columns,
                    core_attention=partial(CoreAttention, kind=kind, attend=attend, groups=groups),
                    linear_proj=rows,
                ),
            ),
            pre_mlp_layernorm=Norm,
            # A namespace: Megatron-Core warns about any ModuleSpec of an MLP class that it does not know by name.
            mlp=SimpleNamespace(
                module=EttinMLP,
                params={
                    "tp_group": groups.tensor.group,
                    "ffn_hidden_size": config.model.intermediate,
                    "activation": parts.gated_gelu,
                },
                submodules=MLPSubmodules(linear_fc1=columns, linear_fc2=rows),
            ),
        ),
    )
