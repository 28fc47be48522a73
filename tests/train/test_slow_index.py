"""Row indexes may take longer to build than a collective waits: the job goes on; see ``slow_index_ranks``."""

from __future__ import annotations

from tests.support.warm import warm
from tests.train.runs import write_toy
from tests.train.slow_index_ranks import CLOCK

BUILD = CLOCK + 3.0
"""Seconds that the first rank builds."""


def launch(folder, end: str, seconds: float):
    return warm(2, "tests.train.slow_index_ranks", write_toy(folder), folder / "run", end, str(seconds), status=None)


def test_an_index_that_takes_longer_than_a_collective_waits_does_not_end_the_job(tmp_path):
    ended = launch(tmp_path, "builds", BUILD)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-5000:]
    assert ended.stdout.count("built") == 1 and ended.stdout.count("finished\n") >= 2


def test_an_index_that_cannot_be_built_ends_every_rank_with_the_reason(tmp_path):
    ended = launch(tmp_path, "fails", 0.5)
    assert ended.returncode != 0 and "finished" not in ended.stdout
    assert "the disk has gone" in ended.stderr and "rank 0: OSError" in ended.stderr
