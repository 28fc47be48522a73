"""A process killed anywhere in a save loses nothing: the newest whole checkpoint is there, and saving goes on."""

from __future__ import annotations

import sys

import pytest

from tests.support.launch import run


@pytest.mark.parametrize("way", ["in the loop", "background"])
def test_a_kill_at_each_point_of_a_save_leaves_the_newest_whole_checkpoint(tmp_path, way):
    from tests.faults.save_points import BESIDE_TRAINING, POINTS

    result = run([sys.executable, "-m", "tests.faults.save_points", tmp_path, way], status=None)
    held = [line.removeprefix("held: ") for line in result.stdout.splitlines() if line.startswith("held: ")]
    points = BESIDE_TRAINING if way == "background" else POINTS
    assert result.returncode == 0 and held == [*points, "disk full"], result.stdout + result.stderr[-6000:]
