"""A process killed anywhere in a save loses nothing: the newest whole checkpoint is there, and saving goes on."""

from __future__ import annotations

import sys

from tests.support.launch import run


def test_a_kill_at_each_point_of_a_save_leaves_the_newest_whole_checkpoint(tmp_path):
    from tests.faults.save_points import POINTS

    result = run([sys.executable, "-m", "tests.faults.save_points", tmp_path], status=None)
    held = [line.removeprefix("held: ") for line in result.stdout.splitlines() if line.startswith("held: ")]
    assert result.returncode == 0 and held == [*POINTS, "disk full"], result.stdout + result.stderr[-6000:]
