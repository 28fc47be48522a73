"""ETTIN_CPU_PATH lowers every dispatcher of the extension, and lowered ones give the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ettin import _native

DISPATCHERS = {
    "attention",
    "crc32c",
    "cross_entropy",
    "id_scan",
    "json_runs",
    "json_unescape",
    "masking",
    "order",
    "pointwise",
    "row_draws",
    "stable_adamw",
    "text_scan",
    "utf8",
    "word_encoder",
}
HIGHEST = {
    "portable": _native.InstructionSet.portable,
    "avx2": _native.InstructionSet.avx2,
    "avx512": _native.InstructionSet.avx512_vbmi,
}


def run(limit: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.csrc.results"]
    environment = os.environ | {"ETTIN_CPU_PATH": limit, "PYTHONPATH": str(root)}
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)


def lowered(limit: str, root: Path) -> dict[str, Any]:
    done = run(limit, root)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports(root: Path) -> dict[str, dict[str, Any]]:
    return {limit: lowered(limit, root) for limit in ("", *HIGHEST)}


def test_the_environment_lowers_every_dispatcher(reports: dict[str, dict[str, Any]]) -> None:
    best = reports[""]["choices"]
    assert set(best) == DISPATCHERS
    assert set(reports["portable"]["choices"].values()) == {int(_native.InstructionSet.portable)}
    for limit, highest in HIGHEST.items():
        for name, chosen in reports[limit]["choices"].items():
            assert chosen <= min(int(highest), best[name]), name
    assert reports["avx512"]["choices"] == best


def test_lowered_dispatchers_give_the_same_results(reports: dict[str, dict[str, Any]]) -> None:
    for limit in HIGHEST:
        assert reports[limit]["exact"] == reports[""]["exact"]
        for name, values in reports[""]["floats"].items():
            np.testing.assert_allclose(reports[limit]["floats"][name], values, rtol=1e-4, atol=2e-5, err_msg=name)


def test_another_value_is_refused(root: Path) -> None:
    done = run("sse9", root)
    assert done.returncode != 0
    assert "ETTIN_CPU_PATH=sse9 is no instruction set; use portable, avx2 or avx512, or unset it" in done.stderr
