"""Real processes wait in a pipeline as long as ``ettin estimate`` says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.launch import run


@pytest.mark.slow
def test_bubbles_of_real_processes_are_the_predicted_ones(root: Path, tmp_path: Path) -> None:
    report = tmp_path / "scaling.json"
    run([sys.executable, root / "benchmarks" / "scaling.py", "--quick", "--json", report])
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert sum(row["claim"].startswith("bubble") for row in rows) == 6
    assert all(row["met"] for row in rows)
