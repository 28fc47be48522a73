"""The Slurm script on two pretended nodes: a signal saves and requeues, the next slot finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.launch import ROOT, environment
from tests.train.runs import write_toy

SCRIPT = ROOT / "examples" / "pretrain_ettin.sh"
PATIENCE = 300.0
PRETENDED = {
    # Both "nodes" on this machine, side by side; their process ids are where scancel finds them.
    "srun": """#!/bin/bash
shift
pids=()
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
echo "${pids[@]}" > "$PRETENDED/pids"
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
""",
    "scontrol": """#!/bin/bash
case $1 in
  show) echo localhost ;;
  requeue) echo "$2" >> "$PRETENDED/requeued" ;;
esac
""",
    "scancel": """#!/bin/bash
kill -USR1 $(cat "$PRETENDED/pids")
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm seems to be installed and has given a job two nodes."""
    for name, text in PRETENDED.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return environment(
        {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "PRETENDED": str(tmp_path), "SLURM_NNODES": "2",
            "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "two", "ETTIN_PROCESSES_PER_NODE": "1",
        }
    )  # fmt: skip


def start(slurm: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], cwd=ROOT, env=slurm, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)


def test_a_signal_ahead_of_the_limit_saves_and_the_next_slot_finishes(slurm, tmp_path):
    run, corpus = tmp_path / "run", write_toy(tmp_path)
    options = (
        f"tiny mlm pretrain --run={run} --data {corpus} --data.row-length 128 --data.piece-length 128"
        " --model.layers 2 --tokens 15000 --schedule.warmup-tokens 0 --batch.rows 4 --batch.warmup-tokens 0"
        " --micro-batch 1 --precision fp32 --data.held-out-share 0.05 --observe.no-tensorboard"
    ).split()
    first = start(slurm, *options)
    wait_for(run / "metrics.jsonl", first)
    first.send_signal(signal.SIGUSR1)
    output, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, output
    assert "asking for another slot" in output and "stopped by SIGUSR1" in output
    assert (tmp_path / "requeued").read_text().split() == [slurm["SLURM_JOB_ID"]]
    second = start(slurm, *options)
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, output
    assert "resuming" in output and f"finished: {run}" in output
    assert (tmp_path / "requeued").read_text().split() == [slurm["SLURM_JOB_ID"]]


@pytest.mark.slow
def test_a_broken_run_asks_for_no_other_slot(slurm, tmp_path):
    process = start(slurm, "tiny", "mlm", "pretrain", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "none"))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and "asking for no other slot" in output, output
    assert not (tmp_path / "requeued").exists()


def test_the_script_says_what_it_needs(slurm, tmp_path):
    assert "give the run a folder with --run" in start(slurm, "tiny", "mlm", "pretrain").communicate()[0]


def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
