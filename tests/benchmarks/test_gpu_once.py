"""One command measures on a machine that is not prepared; it goes on after any stop, and says what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_parts import obstacles
from tests.support.launch import ROOT, run

SCRIPT = ROOT / "benchmarks" / "gpu_once.sh"
PATIENCE = 300.0
"""Seconds for the first row on a busy machine."""


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "ETTIN_PYTHON": sys.executable, "ETTIN_GPU_CACHE": str(cache)}


def statuses(folder: Path) -> Counter[tuple[str, str]]:
    """How often a row has which status in the lines of the results; a line that is being written is left out."""
    file = folder / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []
    return Counter((line["key"], line["status"]) for line in lines if "key" in line)


def test_a_dry_run_that_is_killed_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    out, first = tmp_path / "out", ("machine compile=False", "done")
    command = ["bash", SCRIPT, out, "--dry-run", "--seconds", "100000"]
    started = subprocess.Popen(command, env=environment(tmp_path / "cache"), start_new_session=True,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not statuses(out)[first] and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(started.pid, signal.SIGKILL)  # the one that keeps the time: its worker must end with it
    started.wait()
    left = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(left + '{"key": "cut')
    again = run([*command, "--only", "compile=False kernels"], extra=environment(tmp_path / "cache")).stdout
    found = statuses(out)
    assert found[first] == 1, "a row that was done is measured again"
    key = "step size=17m objective=mlm row_length=1024 backend=auto compile=False kernels=torch"
    assert found[key, "done"] == 1 and f"{key}: done" in again
    assert (out / "table.txt").read_text() in again
    assert "modelled %" in again


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "gpu_once.sh OUT_FOLDER"), (["out", "--seconds", "soon"], "not soon"), (["a", "b"], "OUT_FOLDER")],
)  # fmt: skip
def test_a_wrong_call_is_told(arguments: list[str], told: str, tmp_path: Path) -> None:
    refused = run(["bash", SCRIPT, *arguments], status=2, cwd=tmp_path)
    assert told in refused.stderr and "Traceback" not in refused.stderr


def test_a_machine_without_megatron_core_and_bundle_is_told_how_to_bring_it(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    extra = environment(tmp_path / "cache") | {"ETTIN_PYTHON": str(bare), "ETTIN_GPU_BUNDLE": "/nowhere"}
    refused = run(["bash", SCRIPT, tmp_path / "out"], extra=extra, status=2)
    assert "error: megatron_core" in refused.stderr and "gpu_bundle.sh" in refused.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_in_one_line(tmp_path: Path) -> None:
    refused = run(["bash", SCRIPT, tmp_path / "out"], extra=environment(tmp_path / "cache"), status=2)
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: torch") and "CUDA" in line


class Pretended:
    """A GPU as torch.cuda describes it."""

    def __init__(self, capability: tuple[int, int], free: int) -> None:
        self.capability, self.free = capability, free

    def is_available(self) -> bool:
        return True

    def get_device_name(self) -> str:
        return "some GPU"

    def get_device_capability(self) -> tuple[int, int]:
        return self.capability

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, 80 << 30


@pytest.mark.parametrize(
    ("capability", "free", "triton", "told"),
    [((7, 5), 70 << 30, True, "compute capability 7.5 and bf16 needs 8.0"), ((9, 0), 1 << 30, True, "1.0 GiB"),
     ((9, 0), 70 << 30, False, "Triton is not installed"), ((9, 0), 70 << 30, True, None)],
)  # fmt: skip
def test_a_gpu_that_cannot_be_measured_is_told_with_the_remedy(
    capability: tuple[int, int], free: int, triton: bool, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Any = object() if triton else None
    monkeypatch.setattr(obstacles.torch, "cuda", Pretended(capability, free))
    monkeypatch.setattr(obstacles.torch.version, "cuda", "13.0")
    monkeypatch.setattr(obstacles, "find_spec", lambda _: found)
    monkeypatch.setattr(obstacles, "require_triton", lambda _: None)
    line = obstacles.obstacle()
    assert line is None if told is None else line is not None and told in line and "\n" not in line
