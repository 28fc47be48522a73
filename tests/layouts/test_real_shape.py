"""A published shape under tensor, pipeline and data parallelism together follows one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layouts.cases import Case
from tests.layouts.harness import launch

LAYOUT = {"tensor": 2, "pipeline": 2, "sequence_parallel": True}
LOSS = 1e-4
"""Relative, at each step: rounding that twenty updates have passed on."""
NORM = 1e-3
"""Relative, of the gradient's norm, likewise."""
WEIGHT = 1e-4
"""Relative, of each tensor's norm."""


def compare(work: str, objective: str, folder: Path, timeout: float) -> None:
    one = Case(f"{objective}-one", 1, {}, objective=objective)
    eight = Case(f"{objective}-eight", 8, LAYOUT, objective=objective)
    results = launch(f"tests.layouts.real_shape:{work}", [one, eight], folder, timeout=timeout)
    expected, got = results[one.name], results[eight.name]
    assert got["losses"].tolist() == pytest.approx(expected["losses"].tolist(), rel=LOSS)
    assert got["norms"].tolist() == pytest.approx(expected["norms"].tolist(), rel=NORM)
    for name in expected:
        if name.startswith("weight/"):
            assert float(got[name]) == pytest.approx(float(expected[name]), rel=WEIGHT), name


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_two_steps_of_the_17m_shape_on_eight_ranks_equal_one_process(tmp_path: Path, objective: str) -> None:
    compare("follow_briefly", objective, tmp_path, 1800)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_twenty_steps_of_the_150m_shape_on_eight_ranks_follow_one_process(tmp_path: Path, objective: str) -> None:
    compare("follow", objective, tmp_path, 7200)
