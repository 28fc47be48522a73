"""A minute of each fuzz target finds nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus.fuzz_readers import TARGETS, fuzz

NATIVE = ("json_lines", "text_cutter", "corpus_check", "indexed_corpus", "block_encoder")


@pytest.mark.slow
@pytest.mark.parametrize("target", NATIVE)
def test_a_minute_of_fuzzing_finds_nothing(root: Path, target: str) -> None:
    if shutil.which("clang++") is None:
        pytest.skip("no clang++ on this machine")
    done = subprocess.run([root / "csrc/fuzz/run.sh", target, "60"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_minute_of_fuzzing_the_readers_finds_nothing(root: Path, target: str) -> None:
    command = [sys.executable, "-m", "tests.corpus.fuzz_readers", target, "--seconds", "60"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("target", TARGETS)
def test_changed_files_are_refused_or_read_alike(target: str) -> None:
    done, accepted = fuzz(target, 3000, float("inf"), seed=1)
    assert done == 3000
    assert 0 < accepted < done  # both ends are reached, or nothing is tested
