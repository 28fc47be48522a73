"""Canonical names, initial weights and dropout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.config.weights import shapes
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.model.build import build_model, check_division
from megatron_ettin.model.canonical import full_state, load_full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.initialize import initial_tensor, standard_deviation
from megatron_ettin.parallel.groups import Groups
from tests.model.inputs import PIECES, batch_of, run_of, small_model

PARAMETERS = {
    "17m": 16_913_600,
    "32m": 32_081_344,
    "68m": 68_457_664,
    "150m": 149_655_232,
    "400m": 395_881_664,
    "1b": 1_031_314_112,
}
"""What transformers counts, the tied embedding once."""


@pytest.mark.parametrize("size", PARAMETERS)
def test_every_size_has_the_published_number_of_parameters(size: str) -> None:
    assert sum(torch.Size(shape).numel() for shape in shapes(SHAPES[size]).values()) == PARAMETERS[size]


def test_encoder_and_decoder_of_a_pair_start_from_the_same_weights(groups: Groups) -> None:
    states = [full_state(build_model(run_of(name), groups), groups) for name in ("mlm", "clm", "mntp")]
    assert list(states[0]) == list(shapes(small_model()))
    for other in states[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in states[0].items())


def test_loading_what_was_gathered_changes_nothing(groups: Groups) -> None:
    models = build_model(run_of("mlm"), groups)
    wanted = {name: torch.randn_like(tensor) for name, tensor in full_state(models, groups).items()}
    load_full_state(models, groups, wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in full_state(models, groups).items())


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused(groups: Groups, fault: str) -> None:
    models = build_model(run_of("mlm"), groups)
    weights = full_state(models, groups)
    if fault == "missing":
        del weights["layers.2.qkv.weight"]
    elif fault == "unknown":
        weights["layers.0.attention_norm.weight"] = torch.ones(64)
    else:
        weights["head.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError):
        load_full_state(models, groups, weights)


@pytest.mark.parametrize("name", ["embedding.weight", "layers.3.qkv.weight", "layers.3.mlp_out.weight"])
def test_initial_matrices_are_truncated_normal(name: str) -> None:
    model = replace(SHAPES["17m"], vocabulary=8_192)
    tensor, std = initial_tensor(model, 21, name), standard_deviation(model, name)
    assert float(tensor.abs().max()) <= model.initial_cutoff * std
    cut_share = 0.8796
    """Standard deviation of a normal distribution cut at two of its own."""
    assert float(tensor.std()) == pytest.approx(cut_share * std, rel=0.01)
    assert abs(float(tensor.mean())) < std * 0.01


def test_output_projections_start_smaller_the_deeper_the_model() -> None:
    model: ModelConfig = SHAPES["150m"]
    assert standard_deviation(model, "layers.3.mlp_out.weight") == pytest.approx(0.02 / 44**0.5)
    assert standard_deviation(model, "layers.3.attention_out.weight") == pytest.approx(0.02 / 44**0.5)
    assert standard_deviation(model, "head.dense.weight") == 0.02


def test_a_layout_that_does_not_divide_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"layout.tensor=3 .* use 1, 2"):
        check_division(run_of("mlm", tensor=3))


def dropped_loss(
    groups: Groups, key: int, recompute: str = "none", row: int | None = None, step: int = 0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each label and all gradients of two rows, or of one of them."""
    models = build_model(run_of("mlm", small_model(output_dropout=0.1), recompute=recompute), groups)
    batch = batch_of(PIECES, 250, rows=2)
    if row is not None:
        ids, label_ids = batch.input_ids_BT[[row]], batch.label_ids_L.reshape(2, -1)[row]
        batch = replace(batch_of(PIECES, 250), input_ids_BT=ids, label_ids_L=label_ids, first_row=row)
    losses = models[0](DeviceBatch.from_batch(batch, groups, dropout_key=key, step=step))
    losses.sum().backward()
    return losses.detach(), full_state(models, groups, what="gradients")


def test_dropout_is_a_function_of_its_key_and_the_step(groups: Groups) -> None:
    first, again = dropped_loss(groups, 1), dropped_loss(groups, 1)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(gradient, again[1][name]) for name, gradient in first[1].items())
    for other in (dropped_loss(groups, 2), dropped_loss(groups, 1, step=1)):
        assert not torch.equal(first[0], other[0])


def test_a_row_drops_the_same_whatever_micro_batch_it_is_in(groups: Groups) -> None:
    together, second = dropped_loss(groups, 1)[0], dropped_loss(groups, 1, row=1)[0]
    assert torch.allclose(together[len(together) // 2 :], second, rtol=1e-5)
    assert not torch.allclose(together[: len(together) // 2], together[len(together) // 2 :], rtol=1e-2)


def test_recomputed_layers_drop_the_same(groups: Groups) -> None:
    kept, recomputed = dropped_loss(groups, 1), dropped_loss(groups, 1, recompute="full")
    assert torch.equal(kept[0], recomputed[0])
    assert all(torch.equal(gradient, recomputed[1][name]) for name, gradient in kept[1].items())


def test_nothing_is_dropped_in_evaluation(groups: Groups) -> None:
    batch = batch_of(PIECES, 250)
    losses = []
    for share in (0.0, 0.1):
        model = build_model(run_of("mlm", small_model(output_dropout=share)), groups)[0].eval()
        losses.append(model(DeviceBatch.from_batch(batch, groups, dropout_key=int(share > 0))).detach())
    assert torch.equal(*losses)
