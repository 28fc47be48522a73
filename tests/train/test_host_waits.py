"""Between two steps a GPU is waited for once: when the step's totals are read."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.launch import run

CASE = {"objective": "mlm", "precision": "bf16", "attention": "flash", "recompute": "none", "fault": ""}


def taken(**changes: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.absent_device", json.dumps(CASE | changes)]
    return run(command, status=None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "clm"},
        {"precision": "fp32", "attention": "sdpa"},
        {"objective": "clm", "attention": "sdpa", "recompute": "full"},
    ],
    ids=lambda changes: "-".join(changes.values()) or "default",
)
def test_a_step_reads_numbers_of_the_gpu_once(changes: dict[str, str]) -> None:
    result = taken(**changes)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout.splitlines()[-1]) == {"reads": ["tolist"], "copies": []}


@pytest.mark.parametrize(("fault", "sign"), [("item", "item"), ("mask", "nonzero")])
def test_a_part_that_waits_for_the_gpu_is_noticed(fault: str, sign: str) -> None:
    result = taken(fault=fault)
    assert result.returncode != 0
    assert sign in result.stderr


def test_a_copy_that_is_waited_for_is_noticed() -> None:
    result = taken(fault="copy")
    assert json.loads(result.stdout.splitlines()[-1])["copies"]
