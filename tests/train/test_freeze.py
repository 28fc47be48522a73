"""Frozen parts: bit for bit what they were, without work at the bottom, and the others learn as if nothing were."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_ettin.checkpoint.load import find
from megatron_ettin.config import rules
from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.freezing import frozen_line, frozen_weights
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.cost.memory import memory
from megatron_ettin.errors import ConfigError
from megatron_ettin.export.runs import load_checkpoint
from megatron_ettin.kernels import linear
from megatron_ettin.model.canonical import canonical_parameters, full_state
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.run_folder import read_config
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.run import train
from megatron_ettin.train.store import load_run
from tests.support.warm import warm
from tests.train.freeze_ranks import FREEZE, LAYOUTS, STEPS, frozen_config
from tests.train.runs import config_of, go, losses, no_folder, state_of, tensor_hashes, write_toy

LAYOUT_TOLERANCE = 3e-5
"""Weights after four steps against one process, in units of the largest: a gradient that is rounding noise moves a
weight by up to a rate, which is a hundredth of this model's largest weight times this."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("freeze")
    write_toy(folder)
    go(frozen_config(folder / "toy"), folder / "one")
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(find(run)).tensors)


def initial(run: Path) -> dict[str, torch.Tensor]:
    """The weights that a run began with, in float32."""
    config = read_config(run)
    config = replace(config, compute=replace(config.compute, precision="fp32"))
    parts = build_parts(config, initialize(config.layout), 1)
    return full_state([chunk.module for chunk in parts.chunks], parts.groups)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_frozen_is_bit_for_bit_what_it_was_and_the_rest_learns(precision, place, tmp_path):
    config = frozen_config(place / "toy", compute__precision=precision)
    go(config, tmp_path / "run")
    before, after = initial(tmp_path / "run"), weights_of(tmp_path / "run")
    if precision == "bf16":  # random weights are made in the precision of the run
        before = {name: tensor.bfloat16().float() for name, tensor in before.items()}
    stay = frozen_weights(read_config(tmp_path / "run").model, FREEZE)
    assert len(stay) == 2 + 5 + 6
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert same == stay


def test_a_step_of_the_others_is_that_of_a_run_without_anything_frozen(place, tmp_path):
    free = config_of(place / "toy", "mlm", steps=0.5, model__output_dropout=0.0)
    go(free, tmp_path / "free")
    go(frozen_config(place / "toy", steps=0.5), tmp_path / "frozen")
    expected, found = weights_of(tmp_path / "free"), weights_of(tmp_path / "frozen")
    stay = frozen_weights(free.model, FREEZE)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items() if name not in stay)
    assert not any(torch.equal(found[name], expected[name]) for name in stay)


def test_moments_of_what_is_frozen_stay_zero_and_decay_takes_nothing(place):
    config = frozen_config(place / "toy")
    free = replace(config, optimizer=replace(config.optimizer, freeze=()))
    checkpoint = find(place / "one")
    free = replace(free, model=load_checkpoint(checkpoint).config.model)
    parts = build_parts(free, initialize(free.layout), 1)
    load_run(parts, checkpoint)
    stay = frozen_weights(free.model, FREEZE)
    for entry in canonical_parameters(parts.chunks):
        state = parts.optimizer._get_main_param_and_optimizer_states(entry.parameter)
        assert (entry.name in stay) == (not state["exp_avg_sq"].any()), entry.name


def test_moments_of_what_is_frozen_take_no_memory_and_a_checkpoint_loads_into_them(place):
    config = replace(frozen_config(place / "toy"), model=read_config(place / "one").model)
    parts = build_parts(config, initialize(config.layout), 1)
    load_run(parts, find(place / "one"))
    stay, held = frozen_weights(config.model, FREEZE), 0
    for entry in canonical_parameters(parts.chunks):
        moment = parts.optimizer._get_main_param_and_optimizer_states(entry.parameter)["exp_avg"]
        held += moment.untyped_storage().nbytes()
        assert (entry.name in stay) == (moment.untyped_storage().nbytes() == 4), entry.name
    learning = [entry.parameter for entry in canonical_parameters(parts.chunks) if entry.name not in stay]
    assert held == 4 * (sum(parameter.numel() for parameter in learning) + len(stay))
    assert 2 * held == memory(config).optimizer + 8 * len(stay)


def test_parts_may_be_frozen_and_freed_at_a_checkpoint(place, tmp_path):
    """What is frozen later stays as it was there; what is freed learns on with moments from zero."""
    free, frozen = (config_of(place / "toy", "mlm", steps=STEPS, optimizer__freeze=parts) for parts in ((), FREEZE))
    save = {"checkpoint.every_steps": 2}
    stay = frozen_weights(read_config(place / "one").model, FREEZE)
    for name, before, after in (("frozen", free, frozen), ("freed", frozen, free)):
        run = tmp_path / name
        go(with_fields(before, save), run)
        then = dict(load_checkpoint(find(run, 2)).tensors)
        train(with_fields(after, save), run, no_folder, change_at=2)
        now = weights_of(run)
        moved = {name for name in now if not torch.equal(now[name], then[name])}
        assert moved & stay == (set() if name == "frozen" else stay)
        assert moved >= set(now) - stay


def test_nothing_is_computed_backwards_below_the_lowest_part_that_learns(place, tmp_path, monkeypatch):
    calls: list[tuple[int, ...]] = []
    backward = linear.Linear.backward

    def counted(ctx, *gradients):
        calls.append(tuple(ctx.needs_input_grad[:2]))
        return backward(ctx, *gradients)

    monkeypatch.setattr(linear.Linear, "backward", staticmethod(counted))
    go(frozen_config(place / "toy", steps=0.5), tmp_path / "run")
    micro_batches = 4
    assert len(calls) == micro_batches * (4 + 1), "four products of the last layer and one of the head"
    assert all(of_weight for _, of_weight in calls)


def test_layers_alone_pass_the_gradient_on_to_the_embedding(place, tmp_path):
    config = config_of(place / "toy", "clm", steps=2, optimizer__freeze=("0-2",))
    go(config, tmp_path / "run")
    before, after = initial(tmp_path / "run"), weights_of(tmp_path / "run")
    assert not torch.equal(before["embedding_norm.weight"], after["embedding_norm.weight"])
    assert torch.equal(before["layers.1.qkv.weight"], after["layers.1.qkv.weight"])


def test_layers_that_are_computed_again_learn_behind_frozen_embeddings(place, tmp_path):
    kept = {"optimizer__freeze": ("embeddings",), "model__output_dropout": 0.0, "steps": 2}
    go(config_of(place / "toy", "mlm", **kept), tmp_path / "kept")
    go(config_of(place / "toy", "mlm", layout__recompute="full", **kept), tmp_path / "again")
    one, two = weights_of(tmp_path / "kept"), weights_of(tmp_path / "again")
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_run_with_frozen_parts_resumes_bit_for_bit(place, tmp_path):
    go(frozen_config(place / "toy", steps=2), tmp_path / "parts")
    go(frozen_config(place / "toy"), tmp_path / "parts")
    step = find(place / "one").step
    assert state_of(tmp_path / "parts", step) == state_of(place / "one", step)
    assert tensor_hashes(tmp_path / "parts", step) == tensor_hashes(place / "one", step)


@pytest.fixture(scope="module")
def ranks(place: Path) -> Path:
    folder = place / "ranks"
    folder.mkdir()
    warm(2, "tests.train.freeze_ranks", folder)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_learn_and_leave_the_same(layout, place, ranks):
    stay = frozen_weights(frozen_config(place / "toy").model, FREEZE)
    one, two = weights_of(place / "one"), weights_of(ranks / layout)
    for name, tensor in one.items():
        if name in stay:
            assert torch.equal(two[name], tensor), name
        else:
            assert (two[name] - tensor).abs().max() <= LAYOUT_TOLERANCE * tensor.abs().max().clamp(min=1), name
    assert losses(ranks / layout) == pytest.approx(losses(place / "one"), rel=1e-6)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("0-6", "embeddings"), "leaves nothing to learn but the head"),
        (("embeddings,0-3,4-6",), "leaves nothing to learn but the head"),
        (("7",), "the layers are 0 to 6"),
        (("5-2",), "write 2-5"),
        (("encoder",), "name layers, such as 0-11"),
    ],
)
def test_what_cannot_be_frozen_is_refused_with_the_remedy(freeze, message, tmp_path):
    config = config_of(tmp_path, "mlm", model__layers=7, optimizer__freeze=freeze)
    with pytest.raises(ConfigError, match=message):
        rules.check(config)


def test_overlapped_messages_are_refused_beside_frozen_parts(tmp_path):
    with pytest.raises(ConfigError, match="layout.overlap waits for the gradient of every weight"):
        rules.check(config_of(tmp_path, optimizer__freeze=("0",), layout__overlap=True))


def test_what_stays_is_said_in_parameters():
    model = SHAPES["17m"]
    assert frozen_line(model, ("embeddings",)) == ("embeddings: 12,894,464 of 16,913,600 parameters stay as they are")
