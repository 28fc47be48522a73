"""A plan whose processes are killed: one command starts and resumes, and the end is that of a walk nobody disturbed."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_ettin.run_folder import list_checkpoints
from tests.train.plans import FOLDERS, PATIENCE, PLAN, assert_same_end, kill, last_step, size_file, start
from tests.train.runs import write_toy

KILLS = 20
LONGEST_LIFE = 14.0
"""Seconds after which a start is killed at the latest: some are in their imports, some in the last stage."""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, Path]:
    """A size, a plan and a corpus."""
    (tmp_path / "four.toml").write_text(PLAN)
    return size_file(tmp_path), str(tmp_path / "four.toml"), write_toy(tmp_path)


CASES = {
    "its own, on one rank": (1, "", FOLDERS, ()),
    "its own, on two ranks": (2, "", FOLDERS, ()),
    "the paper's at a scale": (1, "ettin-paper", ("1-pretrain", "2-extension", "3-decay"), ("--scale", "1.2")),
}
"""Ranks, plan, its folders and flags."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_plan_killed_twenty_times_at_random_ends_bit_for_bit_as_one_that_is_not(files, tmp_path, case):
    ranks, plan, names, flags = CASES[case]
    size, own, corpus = files
    asked = (size, plan or own, corpus)
    assert start(asked, tmp_path / "whole", ranks, *flags).wait(PATIENCE) == 0
    chance, folder, killed = random.Random(5), tmp_path / "killed", 0
    while killed < KILLS:
        process = start(asked, folder, ranks, *flags)
        try:
            assert process.wait(chance.uniform(0.5, LONGEST_LIFE)) == 0
            shutil.rmtree(folder / names[-1])  # it is over sooner: again, from the middle of the stage before the last
            for checkpoint in list_checkpoints(folder / names[-2])[1:]:
                (checkpoint.path / "manifest.json").unlink(missing_ok=True)
        except subprocess.TimeoutExpired:
            kill(process)
            killed += 1
    assert start(asked, folder, ranks, *flags).wait(PATIENCE) == 0
    assert last_step(folder / names[-1]) == last_step(tmp_path / "whole" / names[-1])
    assert_same_end(folder, tmp_path / "whole", names)
