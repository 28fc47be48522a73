"""Whether a back end computes what it should: attention by its definition in fp64, and the first step in fp32."""

# T tokens, N heads, D head size

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.peer import peer_inputs, peer_model
from benchmarks.gpu_parts.rows import Row
from benchmarks.gpu_parts.work import batches, run_of
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.export.config_json import kind_of
from megatron_ettin.export.mapping import to_huggingface
from megatron_ettin.model import build
from megatron_ettin.model.attention.choice import NARROWING, choose
from megatron_ettin.model.attention.core import Attend, attend_by
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.model.pattern import LayerKind, Reach, layer_kinds
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.step import Asks, train_step

PIECES = (1, 2, 63, 64, 65, 129, 188, 700)
"""One token, the window's edge on both sides, beyond two windows, and a long one."""
HEADS, HEAD_SIZE = 4, 64
WHOLE = Reach(left=None, right=None)
ATTENTION = {"fp32": 1e-5, "bf16": 1.5e-2, "fp8": 1.5e-2}
"""Of the norm: products of bf16 numbers err by 1e-3 to 1e-2; attention stays in bf16 where the matrices are in fp8."""
LOSS = {"fp32": 1e-5, "bf16": 5e-3, "fp8": 2e-2}
"""Relative, of the first step's mean loss."""
NORM = {"fp32": 1e-4, "bf16": 3e-2, "fp8": 1e-1}
"""Relative, of the gradient's norm."""
ROWS = 2
"""Rows of the first step."""


def numerics(row: Row, machine: Machine) -> dict[str, Any]:
    """Distances and whether each is rounding. Raises ConfigError where the back end is not to be had."""
    config = run_of(row, machine, rows=1)
    has = build.installed(machine.groups.device)
    values: dict[str, Any] = {}
    for kind in layer_kinds(config)[:2]:
        choice = choose(kind, config, has)
        attend = attend_by(choice.backend, kind, config, has)
        name = "local" if kind.reach.is_local else "global"
        values |= {f"{name}_{key}": value for key, value in attention(attend, kind, config, machine).items()}
        if kind.reach == WHOLE and choice.backend in NARROWING:
            values["wanted_error"] = attention_of_some(attend, config, machine)
        values["backend"] = choice.backend
    values |= first_step(row, machine)
    precision = row.precision
    values["met"] = (
        all(values[key] <= ATTENTION[precision] for key in values if key.endswith("_error"))
        and all(values[key] == 0.0 for key in values if key.endswith("_leak"))
        and values["loss_difference"] <= LOSS[precision]
        and values["peer_difference"] <= LOSS["fp32"]
        and values["norm_difference"] <= NORM[precision]
    )
    return values


def attention(attend: Attend, kind: LayerKind, config: RunConfig, machine: Machine) -> dict[str, float]:
    """Distance of output and gradient from the definition, and what a piece's change does to the others: nothing."""
    packed, qkv = pieces_and_inputs(config, machine)
    errors, output = against_definition(attend, kind.reach, packed, qkv)
    changed = qkv.clone()
    first, last = packed.cu_seqlens[3], packed.cu_seqlens[4]
    changed[first:last] += 1.0
    moved = (attend(changed, kind.reach, packed, None, None) - output).abs().amax(dim=(1, 2))
    moved[first:last] = 0.0
    return errors | {"leak": float(moved.max())}


def attention_of_some(attend: Attend, config: RunConfig, machine: Machine) -> float:
    """The larger distance of output and gradient from the definition for every third query, and none of one piece."""
    packed, qkv = pieces_and_inputs(config, machine)
    low, high = packed.cu_seqlens[3:5]
    chosen = [position for position in range(0, packed.length, 3) if not low <= position < high]
    bounds = tuple(bisect_left(chosen, bound) for bound in packed.cu_seqlens)
    wanted = Wanted(positions_L=torch.tensor(chosen, device=machine.device), bounds=bounds)
    errors, _ = against_definition(attend, WHOLE, packed, qkv, wanted)
    return max(errors.values())


def pieces_and_inputs(config: RunConfig, machine: Machine) -> tuple[PackedRows, Tensor]:
    """Pieces, and random queries, keys and values for them [T, N, 3, D] in the run's type."""
    packed = packed_pieces(PIECES[:5] if machine.scale.tiny else PIECES, machine.device)
    heads, size = HEADS, HEAD_SIZE
    if choose_heads(config):
        heads, size = config.model.heads, config.model.hidden // config.model.heads
    dtype = torch.float32 if config.compute.precision == "fp32" else torch.bfloat16
    return packed, torch.randn(packed.length, heads, 3, size, device=machine.device).to(dtype)


def against_definition(
    attend: Attend, reach: Reach, packed: PackedRows, qkv_TN3D: Tensor, wanted: Wanted | None = None
) -> tuple[dict[str, float], Tensor]:
    """Distances of output and gradient from the definition in fp64, and the output."""
    qkv, exact = qkv_TN3D.clone().requires_grad_(), qkv_TN3D.double().requires_grad_()
    output = attend(qkv * 1.0, reach, packed, None, wanted)
    expected = definition(exact, packed, reach.left, reach.right)
    expected = expected if wanted is None else expected[wanted.positions_L]
    upstream = torch.randn(output.shape, device=output.device).to(output.dtype)
    output.backward(upstream)
    expected.backward(upstream.double())
    assert qkv.grad is not None and exact.grad is not None
    errors = {"output_error": distance(output, expected), "gradient_error": distance(qkv.grad, exact.grad)}
    return errors, output.detach()


def choose_heads(config: RunConfig) -> bool:
    """Transformer Engine's module is made for the model's heads; the other kernels take any."""
    return config.compute.attention == "te"


def packed_pieces(pieces: tuple[int, ...], device: torch.device) -> PackedRows:
    """Pieces end to end."""
    return PackedRows(
        cu_seqlens=(0, *torch.tensor(pieces).cumsum(0).tolist()),
        positions_T=torch.cat([torch.arange(piece) for piece in pieces]).to(device),
        first_token=0,
    )


def definition(qkv_TN3D: Tensor, packed: PackedRows, left: int | None, right: int | None) -> Tensor:
    """Softmax over the keys of the query's own piece within reach, every mask written out."""
    query, key, value = (qkv_TN3D[:, :, part].transpose(0, 1) for part in range(3))
    index = torch.arange(query.shape[1], device=query.device)
    offset = index[None, :] - index[:, None]
    bounds = torch.tensor(packed.cu_seqlens, device=query.device)
    pieces = torch.arange(len(bounds) - 1, device=query.device).repeat_interleave(bounds.diff())
    seen = pieces[:, None] == pieces[None, :]
    if left is not None:
        seen = seen & (offset >= -left)
    if right is not None:
        seen = seen & (offset <= right)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(0, 1)


def distance(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference relative to the norm; NaN never passes a bound."""
    return float((got.detach().double() - expected.detach()).norm() / expected.detach().norm())


def first_step(row: Row, machine: Machine) -> dict[str, float]:
    """The first step's loss and gradient norm against the same weights in fp32, and that loss against transformers'."""
    loss, norm, _ = totals(row, machine)
    plain = replace(row, precision="fp32", backend="sdpa", compile=False)
    exact_loss, exact_norm, weights = totals(plain, machine)
    theirs = peer_loss(plain, machine, weights)
    return {
        "loss_difference": abs(loss - exact_loss) / exact_loss,
        "norm_difference": abs(norm - exact_norm) / exact_norm,
        "peer_difference": abs(exact_loss - theirs) / theirs,
    }


def totals(row: Row, machine: Machine) -> tuple[float, float, dict[str, Tensor]]:
    """(loss, gradient norm) of the first step, and the weights before it."""
    config = run_of(row, machine, ROWS)
    parts = build_parts(config, machine.groups, sources=1)
    weights = full_state(parts.chunks, machine.groups)
    result = train_step(parts, batches(config), step=0, rate=0.0, asks=Asks())
    return result.totals.loss, result.totals.gradient_norm, weights


def peer_loss(row: Row, machine: Machine, weights: dict[str, Tensor]) -> float:
    """transformers' loss in fp32 with the same weights over the same labels."""
    config = run_of(row, machine, ROWS)
    model = peer_model(config, "sdpa")
    kind = kind_of(OBJECTIVES[config.objective])
    model.load_state_dict(to_huggingface(weights, config.model, kind), strict=False)
    model.tie_weights()
    model = model.to(machine.device).train()
    total, labels = 0.0, 0
    for batch in batches(config):
        with torch.no_grad():
            total += float(model(**peer_inputs(config, batch, machine.device)).loss) * batch.labels
        labels += batch.labels
    return total / labels
