"""What a run leaves on disk: checkpoints for a restart are few, and none is begun that does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megatron_ettin.errors import CheckpointError
from megatron_ettin.run_folder import checkpoints_of, list_checkpoints
from tests.train.runs import config_of, go, state_of

EVERY_STEP = 1e-9
"""Minutes of a clock that rings after each step."""


def test_the_clock_leaves_two_checkpoints_and_every_milestone(corpus, tmp_path):
    config = config_of(corpus, steps=7, checkpoint__every_minutes=EVERY_STEP, checkpoint__every_steps=3)
    last = go(config, tmp_path).state.step
    by_clock = [step for step in range(1, last) if step % 3][-2:]
    by_steps = [step for step in range(1, last) if step % 3 == 0]
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == sorted([*by_steps, *by_clock, last])
    assert state_of(tmp_path, last)["finished"]


def test_a_save_that_does_not_fit_is_refused_before_it_begins(corpus, tmp_path, monkeypatch):
    config = config_of(corpus, steps=4, checkpoint__every_steps=1)
    free = iter([10**9, 10**6])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=10**9, free=next(free)))
    with pytest.raises(CheckpointError, match=r"needs 2\.2\dMB and 1\.00MB are free; make room"):
        go(config, tmp_path)
    assert [path.name for path in checkpoints_of(tmp_path).iterdir() if path.is_dir()] == ["step-00000001"]
    monkeypatch.undo()
    assert go(config, tmp_path).state.finished, "with room again the same command goes on"
