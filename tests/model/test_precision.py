"""What fp32 and bf16 lose against fp64, and that bf16 runs accumulate and update in fp32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from megatron_ettin.config.run import RunConfig
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import Parts, build_parts
from megatron_ettin.train.step import Asks, forward_backward, train_step
from tests.model.huggingface import logits, peer, renamed
from tests.model.inputs import PIECES, batch_of, run_of

LOSS = {"fp32": 1e-6, "bf16": 2e-3}
"""Relative: 24 bits of mantissa, or 8 in products of many terms whose errors cancel in part."""
GRADIENT = {"fp32": 5e-6, "bf16": 8e-2}
"""Of each tensor's norm, after a backward pass through all layers; those of norms are sums of terms that cancel."""
ACCUMULATED = 1e-6
"""Of a tensor's norm: sums of eight equal gradients in fp32. In bf16 three of them would already err by 2e-3."""
SMALL_RATE = 1e-7
"""Far below what a bf16 weight can be moved by."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_loss_and_gradients_against_fp64(groups: Groups, objective: str, precision: str) -> None:
    config = run_of(objective, precision=precision)
    (model,) = build_model(config, groups)
    weights = {name: tensor.float() for name, tensor in full_state([model], groups).items()}
    losses = model(DeviceBatch.from_batch(batch_of(PIECES, config.model.vocabulary), groups))
    losses.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.main_grad = parameter.grad.float()
    found = renamed(full_state([model], groups, what="gradients"), causal=objective == "clm")
    loss, gradients = in_double(config, weights)
    assert float(losses.double().sum()) == pytest.approx(loss, rel=LOSS[precision])
    for name, gradient in found.items():
        assert float((gradient.double() - gradients[name]).norm() / gradients[name].norm()) < GRADIENT[precision], name


def in_double(config: RunConfig, weights: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """transformers' loss and gradients in fp64 with the same (rounded) weights."""
    model = peer(config, weights).double()
    batch = batch_of(PIECES, config.model.vocabulary)
    positions, ids = (torch.from_numpy(x).long() for x in (batch.label_positions_L, batch.label_ids_L))
    loss = functional.cross_entropy(logits(model, batch)[positions], ids, reduction="sum")
    loss.backward()
    return float(loss.detach()), {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


def gradients_of(parts: Parts, micro_batches: int) -> list[Tensor]:
    """Gradients of the mean loss over that many equal micro-batches."""
    for chunk in parts.chunks:
        chunk.zero_grad_buffer()
    forward_backward(parts, [batch_of(PIECES, parts.config.model.vocabulary)] * micro_batches, step=0)
    return [parameter.main_grad.clone() for chunk in parts.chunks for parameter in chunk.parameters()]


def test_gradients_of_a_bf16_run_add_up_in_fp32(groups: Groups) -> None:
    parts = build_parts(run_of("mlm", precision="bf16"), groups, sources=1)
    once, eight = gradients_of(parts, 1), gradients_of(parts, 8)
    for one, mean in zip(once, eight, strict=True):
        assert one.dtype == torch.float32
        assert float((mean - one).norm()) <= ACCUMULATED * float(one.norm())


def test_updates_too_small_for_bf16_are_kept_in_fp32_main_weights(groups: Groups) -> None:
    parts = build_parts(run_of("mlm", precision="bf16"), groups, sources=1)
    before = [x.detach().clone() for group in parts.optimizer.shard_fp32_from_float16_groups for x in group]
    train_step(parts, [batch_of(PIECES, 250)], step=0, rate=SMALL_RATE, asks=Asks())
    after = [x.detach() for group in parts.optimizer.shard_fp32_from_float16_groups for x in group]
    halves = [x.detach().flatten() for group in parts.optimizer.shard_float16_groups for x in group]
    assert before and all(x.dtype == torch.float32 for x in after)
    moved = [0.0 < float((new - old).abs().max()) <= 2 * SMALL_RATE for old, new in zip(before, after, strict=True)]
    assert all(moved)
    for half, main in zip(halves, after, strict=True):
        assert half.equal(main.flatten().bfloat16())
    unmoved = sum(int((old.bfloat16() == new.bfloat16()).sum()) for old, new in zip(before, after, strict=True))
    assert unmoved > 0.99 * sum(x.numel() for x in after)
