"""Converting needs little more memory than the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "convert_memory.py"


@pytest.mark.slow
def test_converting_costs_little_more_memory_than_the_weights(tmp_path):
    """At the 150M shape: below it the fixed costs of a process weigh more than a model."""
    record = tmp_path / "record.json"
    subprocess.run([sys.executable, SCRIPT, "--size", "150m", "--json", record], check=True, timeout=1800)
    assert json.loads(record.read_text())["met"]
