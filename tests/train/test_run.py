"""Whole runs on one rank: resuming, stopping, carrying over, refusing."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch

from megatron_ettin.checkpoint.load import find
from megatron_ettin.config.weights import shapes
from megatron_ettin.errors import CheckpointError, ConfigError, DataError, TrainingError
from megatron_ettin.model.canonical import full_state
from megatron_ettin.observe import read_records
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.run_folder import list_checkpoints, path_of
from megatron_ettin.train import run as run_module
from megatron_ettin.train.guard import REFUSALS_BEFORE_STOP
from megatron_ettin.train.optimizer import ShardedOptimizer
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.record import Recorder
from megatron_ettin.train.store import load_run
from tests.train.runs import ROW, WORDS, config_of, go, losses, state_of, tensor_hashes, write_toy
from tools.diff_runs import differences


def signal_after(monkeypatch, step, number):
    """Send this process a signal when ``step`` has been recorded: as if it came in the middle of the loop."""
    record = Recorder.step

    def step_and_signal(self, state, *arguments):
        record(self, state, *arguments)
        if state.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Recorder, "step", step_and_signal)


@pytest.mark.parametrize(
    ("objective", "number"), [("mlm", signal.SIGTERM), ("clm", signal.SIGINT), ("mixed", signal.SIGTERM)]
)
def test_resume_is_bitwise_equal(corpus, tmp_path, monkeypatch, objective, number):
    """Stopped at an odd step by a signal, with dropout on: weights, moments and records equal an uninterrupted run."""
    config = config_of(corpus, objective, schedule__warmup_tokens=1000)
    assert go(config, tmp_path / "whole").state.finished
    with monkeypatch.context() as patch:
        signal_after(patch, 2, number)
        outcome = go(config, tmp_path / "parts")
    assert outcome.signal == number and outcome.state.step == 3 and not outcome.state.finished
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path / "parts")] == [3]
    assert "same command goes on" in (tmp_path / "parts" / "console.log").read_text()
    last = go(config, tmp_path / "parts").state
    assert last.finished
    assert tensor_hashes(tmp_path / "whole", last.step) == tensor_hashes(tmp_path / "parts", last.step)
    assert differences(*(read_records(tmp_path / name, "step") for name in ("whole", "parts"))) == []
    assert state_of(tmp_path / "whole", last.step) == state_of(tmp_path / "parts", last.step)


def test_a_run_folder_holds_its_record(corpus, tmp_path):
    config = config_of(corpus, steps=2)
    go(config, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"config.json", "environment.json", "command.txt", "metrics.jsonl", "console.log", "tensorboard"}
    assert (tmp_path / "checkpoints" / "LATEST").read_text().strip() == list_checkpoints(tmp_path)[-1].path.name
    assert json.loads((tmp_path / "config.json").read_text())["model"]["vocabulary"] == 256


def test_a_finished_run_is_left_alone(corpus, tmp_path):
    config = config_of(corpus, steps=2)
    first = go(config, tmp_path)
    again = go(config, tmp_path)
    assert again == first and again.state.finished
    assert len(list_checkpoints(tmp_path)) == 1


def test_batches_in_the_record_can_be_replayed(corpus, tmp_path):
    config = config_of(corpus, steps=3, layout__micro_batch_rows=2)
    go(config, tmp_path)
    stage = open_data(config)
    for record in read_records(tmp_path, "step"):
        batch = stage.batch(stage.step_rows(record["step"] - 1), config.objective)
        assert f"{batch.digest():016x}" == record["batch"]


def test_a_signal_before_the_first_step_leaves_nothing(corpus, tmp_path, monkeypatch):
    build = run_module.build_parts

    def stopped(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return build(*arguments, **settings)

    monkeypatch.setattr(run_module, "build_parts", stopped)
    outcome = go(config_of(corpus), tmp_path)
    assert outcome.signal == signal.SIGTERM and outcome.state.step == 0
    assert list_checkpoints(tmp_path) == []
    assert "before the first step" in (tmp_path / "console.log").read_text()


def test_a_changed_setting_is_refused_and_shown(corpus, tmp_path):
    go(config_of(corpus, steps=2), tmp_path)
    with pytest.raises(ConfigError, match="optimizer.beta2: 0.98 -> 0.99"):
        go(config_of(corpus, steps=2, optimizer__beta2=0.99), tmp_path)


def test_a_longer_flat_run_goes_on(corpus, tmp_path):
    go(config_of(corpus, steps=2), tmp_path)
    outcome = go(config_of(corpus, steps=4), tmp_path)
    assert outcome.state.finished and outcome.state.step >= 4
    assert [record["step"] for record in read_records(tmp_path, "step")] == list(range(1, outcome.state.step + 1))


def test_other_data_under_the_same_name_is_refused(corpus, tmp_path):
    go(config_of(corpus, steps=2), tmp_path / "run")
    other = write_toy(tmp_path, shuffled=True)
    with pytest.raises(DataError, match="began on other data"):
        go(config_of(other, steps=4), tmp_path / "run")


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_step(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write there.*choose another folder"):
        go(config_of(corpus), tmp_path / "file" / "run")


def test_a_damaged_checkpoint_is_skipped_and_the_run_goes_on(corpus, tmp_path):
    config = config_of(corpus, steps=4, checkpoint__every_steps=1)
    last = go(config, tmp_path).state.step
    expected = tensor_hashes(tmp_path, last)
    shard = next((path_of(tmp_path, last) / "shards").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert go(config, tmp_path).state.step == last
    assert tensor_hashes(tmp_path, last) == expected
    log = (tmp_path / "console.log").read_text()
    assert f"skipping step-{last:08d}: {shard} is damaged" in log and f"from step {last - 1}" in log
    assert list((tmp_path / "checkpoints").glob("damaged-*"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_changes_nothing_but_the_count(corpus, tmp_path, monkeypatch, bad):
    """The third of four steps has one bad number: the weights after it are those before it."""
    gather, calls = ShardedOptimizer.gather_gradients, []

    def gather_and_spoil(self):
        gather(self)
        calls.append(0)
        if len(calls) == 3:
            self.optimizer.tensors()[-1].grad.view(-1)[0] = bad

    monkeypatch.setattr(ShardedOptimizer, "gather_gradients", gather_and_spoil)
    go(config_of(corpus, steps=3.5, checkpoint__every_steps=1), tmp_path)
    assert tensor_hashes(tmp_path, 2) == tensor_hashes(tmp_path, 3) != tensor_hashes(tmp_path, 4)
    states = [state_of(tmp_path, step) for step in (2, 3, 4)]
    assert [state["updates"] for state in states] == [2, 2, 3]
    assert [state["refused"] for state in states] == [0, 1, 1]
    record = read_records(tmp_path, "step")[2]
    assert record["gradient_norm"] is None and "nothing updated" in record["note"]


def test_a_run_without_finite_gradients_stops(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardedOptimizer, "square_norm", lambda self: torch.tensor(math.nan, dtype=torch.float64))
    with pytest.raises(TrainingError, match=f"{REFUSALS_BEFORE_STOP} steps in a row"):
        go(config_of(corpus, steps=50), tmp_path)


# Relative: sums of float32 losses and gradients in another order, three steps long.
SPLIT_TOLERANCE = 1e-5


def test_the_split_into_micro_batches_changes_nothing(corpus, tmp_path):
    """Masked labels are spread unevenly over the rows; the loss is per label of the step."""
    for rows in (1, 2, 4):
        config = config_of(corpus, steps=3, layout__micro_batch_rows=rows, model__output_dropout=0.0)
        go(config, tmp_path / str(rows))
    for rows in ("2", "4"):
        assert losses(tmp_path / rows) == pytest.approx(losses(tmp_path / "1"), rel=SPLIT_TOLERANCE)


def test_a_growing_batch_takes_the_micro_batches_that_divide_it(corpus, tmp_path):
    """Steps of 2, 4, 6 and 8 rows in micro-batches of up to 8."""
    growing = {"batch__rows": 8, "batch__warmup_tokens": 12 * ROW, "batch__warmup_increment": 2}
    for rows in (1, 8):
        fields = growing | {"layout__micro_batch_rows": rows, "model__output_dropout": 0.0}
        go(config_of(corpus, steps=9, **fields), tmp_path / str(rows))
    grown = [step["tokens"] for step in read_records(tmp_path / "8", "step")]
    assert grown[-1] - grown[-2] > 3 * grown[0], "the batch grows"
    assert losses(tmp_path / "8") == pytest.approx(losses(tmp_path / "1"), rel=SPLIT_TOLERANCE)


def test_stages_carry_weights_and_optimizer_and_cross_only_weights(corpus, tmp_path):
    first = go(config_of(corpus, steps=3), tmp_path / "first").state
    origin = {"start__from_run": str(tmp_path / "first")}
    second = go(config_of(corpus, stage="extension", steps=2, **origin), tmp_path / "second").state
    assert second.updates == first.updates + second.step
    assert "weights and optimizer" in (tmp_path / "second" / "console.log").read_text()
    origin = {"start__from_run": str(tmp_path / "second")}
    third = go(config_of(corpus, "clm", stage="cross", steps=2, **origin), tmp_path / "third").state
    assert third.updates == third.step
    start = read_records(tmp_path / "third", "step")[0]["loss"]
    assert start < read_records(tmp_path / "first", "step")[0]["loss"]


def test_a_stage_can_begin_from_a_named_step_of_an_unfinished_run(corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_after(patch, 1, signal.SIGUSR1)
        go(config_of(corpus), tmp_path / "first")
    options = {"stage": "extension", "steps": 2}
    with pytest.raises(CheckpointError, match="not finished: it stopped at step 2.*@2"):
        go(config_of(corpus, **options, start__from_run=str(tmp_path / "first")), tmp_path / "a")
    assert go(config_of(corpus, **options, start__from_run=f"{tmp_path / 'first'}@2"), tmp_path / "b").state.finished


@pytest.mark.parametrize(
    ("objective", "fields", "message"),
    [
        ("mlm", {"model__layers": 4}, "layers 3 there, 4 here"),
        ("mlm", {"model__global_every": 2}, "global_every 3 there, 2 here"),
        ("clm", {}, "was trained on mlm, this run is clm.*stage cross"),
    ],
)
def test_a_checkpoint_of_another_size_or_objective_is_refused(corpus, tmp_path, objective, fields, message):
    go(config_of(corpus, steps=1), tmp_path / "first")
    config = config_of(corpus, objective, "extension", start__from_run=str(tmp_path / "first"), **fields)
    with pytest.raises(CheckpointError, match=message):
        go(config, tmp_path / "second")


def test_weights_from_elsewhere_are_taken_over(corpus, tmp_path):
    still = {"schedule__peak_rate": 1e-30, "optimizer__weight_decay": 0.0}
    config = config_of(corpus, steps=1, start__huggingface="there", **still)
    shape = replace(config.model, vocabulary=256)
    generator = torch.Generator().manual_seed(3)
    tensors = {name: 0.02 * torch.randn(size, generator=generator) for name, size in shapes(shape).items()}
    go(config, tmp_path / "run", lambda path: (shape, tensors))
    parts = build_parts(replace(config, model=shape), initialize(config.layout), 1)
    load_run(parts, find(tmp_path / "run"))
    found = full_state(parts.chunks, parts.groups)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


# Nats below the unigram entropy (4.09) that a rule must bring, and that text without one cannot.
LEARNING_MARGIN = 0.5
LEARNING_STEPS = 70


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_it_learns_what_can_be_learned_and_nothing_else(corpus, tmp_path, objective):
    entropy = math.log(WORDS)
    plain = write_toy(tmp_path, shuffled=True)
    for name, prefix in (("rule", corpus), ("none", plain)):
        go(config_of(prefix, objective, steps=LEARNING_STEPS, observe__tensorboard=False), tmp_path / name)
    loss = {name: read_records(tmp_path / name, "evaluation")[-1]["loss"] for name in ("rule", "none")}
    assert loss["rule"] < entropy - LEARNING_MARGIN
    assert loss["none"] > entropy - LEARNING_MARGIN / 2
