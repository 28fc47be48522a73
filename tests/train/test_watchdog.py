"""A rank that hangs or is stopped is named, and everybody is out in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_ettin.parallel.watchdog import Place, culprits

RANK = """
import os, sys, time
import torch, torch.distributed as dist
from megatron_ettin.parallel import watchdog
watchdog.ANSWER_SECONDS = 2.0
dist.init_process_group("gloo")
rank = dist.get_rank()
dog = watchdog.Watchdog(rank, dist.get_world_size(), 2.0).__enter__()
for step in range(1, 1000):
    dog.moved(step, "reading rows")
    if step == 5 and rank == 1:
        open(os.path.join(sys.argv[1], "there"), "w").write(str(os.getpid()))
        if sys.argv[2] == "hangs":
            time.sleep(600)
        while sys.argv[2] == "stopped":
            time.sleep(0.01)
    dog.moved(step, "reducing gradients")
    dist.all_reduce(torch.ones(1))
"""
OUT = 60.0
"""Seconds after the time without a step within which everybody has ended."""


@pytest.mark.parametrize("way", ["hangs", "stopped"])
def test_a_rank_that_stands_still_is_named_and_all_end(tmp_path: Path, way: str) -> None:
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    started = subprocess.Popen(
        [*command, str(tmp_path), way], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"},
    )  # fmt: skip
    while not ((tmp_path / "there").exists() and (tmp_path / "there").read_text()):
        assert started.poll() is None
        time.sleep(0.05)
    process = int((tmp_path / "there").read_text())
    if way == "stopped":
        os.kill(process, signal.SIGSTOP)
    output, _ = started.communicate(timeout=OUT)
    assert started.returncode != 0
    assert f"rank 1 (process {process} on " in output
    if way == "stopped":
        assert "no answer from rank 1" in output
    else:
        assert "the other ranks are at step 5" in output or "wait for" in output
        assert "time.sleep" in output or "rank.py" in output, "the stacks are printed"


def test_who_is_behind_is_told_from_who_waits() -> None:
    ahead = [Place(rank, "a", 10 + rank, 7, "reducing gradients") for rank in range(3)]
    slow = Place(3, "b", 13, 7, "reading rows")
    assert culprits([*ahead, slow], [*ahead, slow]).endswith("wait for rank 3 (process 13 on b): step 7, reading rows")
    assert "no answer from rank 3 (process 13 on b)" in culprits([*ahead, None], [*ahead, slow])
    assert culprits(ahead, ahead).startswith("all ranks are at step 7")


CAUGHT = """
import time
from megatron_ettin.parallel.watchdog import Watchdog
try:
    with Watchdog(0, 1, 0.3):
        raise ValueError
except ValueError:
    time.sleep(1.5)
print("alive")
"""


def test_a_run_that_raised_leaves_no_watchdog_behind() -> None:
    """A program that calls train() and catches its error lives on."""
    ended = subprocess.run([sys.executable, "-c", CAUGHT], capture_output=True, text=True, timeout=OUT)
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr
