"""Scales that a checkpoint does not hold: a run that depends on them does not go on as if it did."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megatron_ettin.check.run import folder_findings
from megatron_ettin.config import rules
from megatron_ettin.config.codec import to_json, with_fields
from megatron_ettin.errors import CheckpointError
from megatron_ettin.run_folder import CONFIG, list_checkpoints
from megatron_ettin.train.start import resume
from tests.train.runs import config_of, go

DELAYED = {"compute.precision": "fp8", "compute.fp8_recipe": "delayed", "compute.fp8_ends_in_bf16": False}


def test_scales_of_earlier_steps_are_not_begun_anew_in_silence(corpus, tmp_path):
    """Neither a start nor a check goes on from a checkpoint without them; both name the command that does."""
    config = config_of(corpus, steps=2)
    go(config, tmp_path / "run")
    (checkpoint,) = list_checkpoints(tmp_path / "run")
    scaled = with_fields(config, DELAYED)
    remedy = f"no checkpoint holds; .*--compute.fp8-recipe current --change-at {checkpoint.step}"
    with pytest.raises(CheckpointError, match=remedy):
        resume(SimpleNamespace(config=scaled), checkpoint, "", None, print)
    (tmp_path / "run" / CONFIG).write_text(to_json(scaled))
    with pytest.raises(CheckpointError, match=remedy):
        list(folder_findings(scaled, tmp_path / "run"))


def test_no_spike_sends_such_a_run_back(tmp_path):
    config = with_fields(config_of(tmp_path), DELAYED)
    assert rules.problems(config) == []
    (problem,) = rules.problems(with_fields(config, {"guard.on_spike": "rewind"}))
    assert "none holds the scales of compute.fp8_recipe=delayed" in problem
