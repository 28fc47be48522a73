"""The same numbers as transformers, for every size and both objectives, on packed rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_ettin.config.run import ModelConfig, RunConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import full_state, load_full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.parallel.groups import Groups
from tests.model.huggingface import logits, peer, renamed
from tests.model.inputs import PIECES, batch_of, run_of, small_model

LOGITS = 2e-5
"""Of the largest logit: fp32 rounding through up to 28 layers."""
GRADIENT = 2e-5
"""Of each tensor's norm."""
SPREAD = 0.05
"""Noise on the initial weights, so that norms are not 1, the bias is not 0 and attention is not flat."""


def built(config: RunConfig, groups: Groups) -> EttinModel:
    model = build_model(config, groups)[0]
    torch.manual_seed(0)
    noisy = {name: x + SPREAD * torch.randn_like(x) for name, x in full_state([model], groups).items()}
    load_full_state([model], groups, noisy)
    return model


def reduced(size: str) -> ModelConfig:
    """The depth and the pattern of a published size, 64 wide; the smallest as it is, with fewer words."""
    shape = replace(SHAPES[size], vocabulary=250, output_dropout=0.0, rope_base_global=160_000.0)
    return shape if size == "17m" else replace(shape, hidden=64, intermediate=96, heads=2)


def assert_same_logits(config: RunConfig, groups: Groups) -> None:
    model = built(config, groups)
    batch = batch_of(PIECES, config.model.vocabulary)
    with torch.no_grad():
        every = torch.arange(batch.rows * batch.row_length)
        ours = model.logits(DeviceBatch.from_batch(batch, groups), every)
        theirs = logits(peer(config, full_state([model], groups)), batch)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < LOGITS


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_logits_equal_transformers_beyond_the_window_on_packed_rows(groups: Groups, size: str, objective: str) -> None:
    assert_same_logits(run_of(objective, reduced(size)), groups)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("bases", [(10_000.0, 10_000.0), (160_000.0, 160_000.0), (160_000.0, 10_000.0)])
def test_logits_equal_transformers_for_the_bases_of_every_stage(
    groups: Groups, objective: str, bases: tuple[float, float]
) -> None:
    model = small_model(rope_base_global=bases[0], rope_base_local=bases[1])
    assert_same_logits(run_of(objective, model), groups)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_gradients_equal_transformers(groups: Groups, objective: str) -> None:
    config = run_of(objective)
    model = built(config, groups)
    batch = batch_of(PIECES, config.model.vocabulary, rows=2)
    loss = model(DeviceBatch.from_batch(batch, groups)).sum()
    loss.backward()
    theirs = peer(config, full_state([model], groups))
    positions, ids = (torch.from_numpy(x).long() for x in (batch.label_positions_L, batch.label_ids_L))
    their_loss = torch.nn.functional.cross_entropy(logits(theirs, batch)[positions], ids, reduction="sum")
    their_loss.backward()
    assert float(loss) == pytest.approx(float(their_loss), rel=1e-6)
    expected = dict(theirs.named_parameters())
    gradients = renamed(full_state([model], groups, what="gradients"), causal=objective == "clm")
    for name, gradient in gradients.items():
        wanted = expected[name].grad
        assert wanted is not None
        assert float((gradient - wanted).norm() / wanted.norm()) < GRADIENT, name


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_logits_equal_transformers_at_8192_with_the_full_vocabulary(groups: Groups, objective: str) -> None:
    config = run_of(objective, replace(SHAPES["17m"], output_dropout=0.0), row_length=8192)
    model = built(config, groups)
    batch = batch_of((7_999, 193), config.model.vocabulary)
    some = torch.arange(0, 8192, 61)
    with torch.no_grad():
        ours = model.logits(DeviceBatch.from_batch(batch, groups), some)
        theirs = logits(peer(config, full_state([model], groups)), batch)[some]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < LOGITS
