"""The fuzz target of the tokenizer finds nothing in a minute."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_minute_of_fuzzing_finds_nothing(root: Path) -> None:
    if shutil.which("clang++") is None:
        pytest.skip("no clang++ on this machine")
    done = subprocess.run([root / "csrc/fuzz/run.sh", "tokenizer", "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
