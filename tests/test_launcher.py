"""Ranks do not outlive torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = """
import os, sys, time
from megatron_ettin import launcher
if sys.argv[2] == "polled":
    launcher.sys.platform, launcher.LOOK_EVERY = "elsewhere", 0.1
launcher.end_with_launcher()
open(os.path.join(sys.argv[1], f"rank-{os.environ['RANK']}"), "w").write(str(os.getpid()))
time.sleep(60)
"""
GONE = 5.0
"""Seconds within which ranks whose launcher was killed have ended."""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


LATE = """
import os, subprocess, sys
rank = (
    "import os, sys, time; time.sleep(0.5); from megatron_ettin.launcher import end_with_launcher; "
    "open(sys.argv[1], 'w').write(str(os.getpid())); end_with_launcher(); time.sleep(60)"
)
subprocess.Popen([sys.executable, "-c", rank, sys.argv[1]], env={**os.environ, "TORCHELASTIC_RUN_ID": "1"})
"""


def test_a_rank_whose_launcher_ended_before_it_looked_ends_too(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LATE, str(tmp_path / "rank")], check=True)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "rank").exists() and (tmp_path / "rank").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    rank = int((tmp_path / "rank").read_text())
    while alive(rank) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(rank)


@pytest.mark.parametrize("way", ["signalled", "polled"])
def test_ranks_end_when_torchrun_alone_is_killed(tmp_path: Path, way: str) -> None:
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun = subprocess.Popen([*command, str(program), str(tmp_path), way])
    files = [tmp_path / "rank-0", tmp_path / "rank-1"]
    while not all(file.exists() and file.read_text() for file in files):
        assert torchrun.poll() is None
        time.sleep(0.05)
    ranks = [int(file.read_text()) for file in files]
    os.kill(torchrun.pid, signal.SIGKILL)
    torchrun.wait()
    deadline = time.monotonic() + GONE
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [rank for rank in ranks if alive(rank)] == []
