"""The guard gives the same verdict on every rank, names the row, and does what its policy says; see ``guard_ranks``."""

from __future__ import annotations

from tests.support.warm import warm


def test_every_rank_gives_the_same_verdict_and_names_the_row_under_every_policy(tmp_path):
    result = warm(2, "tests.train.guard_ranks", tmp_path, status=None)
    held = [line.removeprefix("held: ") for line in result.stdout.splitlines() if line.startswith("held: ")]
    assert held == ["data", "pipeline"], result.stdout[-4000:] + result.stderr[-8000:]
