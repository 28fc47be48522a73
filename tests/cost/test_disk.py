"""What checkpoints take on disk, before there is one."""

from __future__ import annotations

import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.cost.disk import checkpoint_bytes, disk, milestones
from megatron_ettin.run_folder import list_checkpoints, read_config
from tests.train.runs import config_of, go, write_toy

TOLERANCE = 0.05
"""Of the estimate: containers and indexes are counted by a mean."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_is_the_size_of_a_real_checkpoint(tmp_path, precision):
    go(config_of(write_toy(tmp_path), steps=1, compute__precision=precision), tmp_path / "run")
    (checkpoint,) = list_checkpoints(tmp_path / "run")
    real = sum(path.stat().st_size for path in checkpoint.path.rglob("*") if path.is_file())
    assert checkpoint_bytes(read_config(tmp_path / "run")) == pytest.approx(real, rel=TOLERANCE)


def test_the_largest_shapes_take_their_weights_and_little_more():
    for size, count in (("150m", 149_655_232), ("1b", 1_031_314_112)):
        assert checkpoint_bytes(recipe(size, "mlm", "pretrain")) == pytest.approx(14 * count, rel=0.002)


def run_of(**fields):
    changes = {f"checkpoint.{name}": value for name, value in fields.items()}
    return with_fields(recipe("17m", "mlm", "pretrain"), changes)


def test_milestones_are_those_by_tokens_by_steps_and_the_end():
    total = run_of().schedule.tokens
    assert milestones(run_of(every_tokens=0)) == 1
    assert milestones(run_of(every_tokens=total)) == 1, "the last one by tokens is the end"
    assert milestones(run_of(every_tokens=total // 4)) == 4 + bool(total % 4)
    assert milestones(run_of(every_tokens=total // 4 + 1)) == 4
    run = run_of(every_tokens=total // 4 + 1)
    assert milestones(run, tokens=total // 2) == 3 and milestones(run, tokens=total) == 0
    assert milestones(run_of(every_tokens=0, every_steps=1_000), step=2_000) == (
        milestones(run_of(every_tokens=0, every_steps=1_000)) - 2
    )


def test_a_run_holds_its_milestones_and_the_newest_by_clock():
    few = disk(run_of(every_tokens=0))
    assert (few.milestones, few.for_restart) == (1, 2) and few.most == 3 * few.checkpoint
    assert disk(run_of(every_tokens=0, every_minutes=0.0)).most == few.checkpoint
    assert disk(run_of(every_tokens=0, keep=5)).most == 6 * few.checkpoint
