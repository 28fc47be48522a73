"""A micro-batch that does not fit after all becomes a smaller one before the first step, and nothing else changes."""

from __future__ import annotations

import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.errors import ConfigError
from megatron_ettin.run_folder import read_config
from megatron_ettin.train.rehearsal import can_rehearse
from tests.train.runs import config_of, go, losses, tensor_hashes
from tests.train.small_memory import memory_for


def test_what_does_not_fit_is_halved_before_the_first_step_and_the_run_is_that_of_the_smaller(corpus, tmp_path):
    config = config_of(corpus, steps=4)
    with memory_for(1) as seen:
        last = go(config, tmp_path / "chosen").state.step
    assert seen[:7] == [4, 2, 1, 1, 1, 1, 1]
    said = (tmp_path / "chosen" / "console.log").read_text()
    assert "micro-batches of 4 rows are more than the memory of every GPU holds: 2 rows are taken" in said
    assert "micro-batches of 2 rows are more than the memory of every GPU holds: 1 rows are taken" in said
    assert said.count("the first micro-batch took ") == 1 and " s, what is compiled for it included" in said
    assert read_config(tmp_path / "chosen").layout.micro_batch_rows == 1

    go(with_fields(config, {"layout.fit_micro_batch": False}), tmp_path / "given")
    assert losses(tmp_path / "chosen") == losses(tmp_path / "given")
    assert tensor_hashes(tmp_path / "chosen", last) == tensor_hashes(tmp_path / "given", last)


def test_a_run_that_goes_on_rehearses_and_is_that_of_an_uninterrupted_one(corpus, tmp_path):
    whole = {"layout__fit_micro_batch": False, "layout__micro_batch_rows": 2}
    last = go(config_of(corpus, steps=4, **whole), tmp_path / "whole").state.step
    with memory_for(2):
        for steps in (2, 4):
            go(config_of(corpus, steps=steps), tmp_path / "parts")
    assert tensor_hashes(tmp_path / "whole", last) == tensor_hashes(tmp_path / "parts", last)


def test_a_micro_batch_that_was_asked_for_is_kept_and_the_error_names_one_that_fits(corpus, tmp_path):
    config = config_of(corpus, steps=2, layout__fit_micro_batch=False, layout__micro_batch_rows=4)
    with memory_for(3), pytest.raises(ConfigError, match=r"layout.micro_batch_rows=4; .*--layout.micro-batch-rows 2"):
        go(config, tmp_path / "run")
    assert read_config(tmp_path / "run").layout == config.layout.__class__(**{**vars(config.layout), "data": 1})


def test_a_later_step_that_runs_out_of_memory_says_how_to_go_on(corpus, tmp_path):
    config = config_of(corpus, steps=4)
    with memory_for(3, passes=3), pytest.raises(ConfigError, match="with --layout.micro-batch-rows 2"):
        go(config, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2


def test_memory_for_not_even_one_row_is_said_before_the_first_step(corpus, tmp_path):
    with memory_for(0), pytest.raises(ConfigError, match="not even micro-batches of 1 rows fit.*--tensor"):
        go(config_of(corpus, steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({"data": 8}, True),
        ({"tensor": 2, "data": 8}, False),
        ({"pipeline": 2}, False),
        ({"context": 2}, False),
        ({"fit_micro_batch": False}, False),
    ],
)
def test_ranks_that_share_a_model_do_not_rehearse(fields, can, tmp_path):
    config = config_of(tmp_path, **{f"layout__{name}": value for name, value in fields.items()})
    assert can_rehearse(config) is can


def test_scales_of_earlier_steps_see_no_rehearsal(tmp_path):
    fp8 = {"compute__precision": "fp8", "compute__fp8_ends_in_bf16": False}
    assert not can_rehearse(config_of(tmp_path, compute__fp8_recipe="delayed", **fp8))
    assert can_rehearse(config_of(tmp_path, compute__fp8_recipe="current", **fp8))
