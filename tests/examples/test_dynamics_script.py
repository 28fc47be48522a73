"""The Slurm array over checkpoints: each task has its share, and a signal ahead of the limit asks for another slot."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.launch import ROOT, with_programs

SCRIPT = ROOT / "examples" / "dynamics.sh"
PATIENCE = 120.0
PRETENDED = {
    "srun": '#!/bin/bash\nshift\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> "$PRETENDED/asked"\n',
}
PYTHON = """#!/bin/bash
# In the place of Python: notes its arguments, and works until it is stopped or ETTIN_TENTHS have passed.
printf '%s\\n' "$@" > "$PRETENDED/arguments"
for _ in $(seq "${ETTIN_TENTHS:-0}"); do sleep 0.1; done
exit "${ETTIN_ENDS:-0}"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm seems to have started the second task of the array 3-7:2."""
    return with_programs(
        tmp_path, PRETENDED,
        {
            "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3",
            "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "3",
        },
    )  # fmt: skip


def start(slurm: dict[str, str], *arguments: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], cwd=cwd, env=slurm, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def pretend_python(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)


def signalled(slurm: dict[str, str], tmp_path: Path, number: int) -> tuple[int, str, str]:
    """(exit status, output, what scontrol was asked) of a task that is sent a signal while it works."""
    pretend_python(tmp_path)
    process = start({**slurm, "ETTIN_TENTHS": "600"}, "runs/x")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "arguments").exists():
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    asked = tmp_path / "asked"
    return process.returncode, output, asked.read_text() if asked.exists() else ""


def test_each_task_of_the_array_has_its_share(slurm, tmp_path):
    pretend_python(tmp_path)
    output, _ = start(slurm, "runs/my run", "--suite", "bias").communicate(timeout=PATIENCE)
    assert "finished: share 2 of 3" in output
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "-m", "megatron_ettin", "evaluate", "runs/my run", "--suite", "bias", "--dynamics", "--shard", "2/3",
    ]  # fmt: skip


def test_a_signal_ahead_of_the_limit_asks_for_another_slot(slurm, tmp_path):
    status, output, asked = signalled(slurm, tmp_path, signal.SIGUSR1)
    assert (status, asked) == (0, "requeue 77_5\n") and "asking for another slot" in output


def test_a_task_that_no_slot_is_long_enough_for_is_not_asked_for_for_ever(slurm, tmp_path):
    status, output, asked = signalled({**slurm, "SLURM_RESTART_COUNT": "19"}, tmp_path, signal.SIGUSR1)
    assert status != 0 and asked == "" and "what it finished is kept" in output


def test_scancel_asks_for_no_other_slot(slurm, tmp_path):
    status, _, asked = signalled(slurm, tmp_path, signal.SIGTERM)
    assert status != 0 and asked == ""


def test_an_error_is_the_error_of_the_task(slurm, tmp_path):
    pretend_python(tmp_path)
    process = start({**slurm, "ETTIN_ENDS": "2"}, "runs/x")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "share 2 of 3 ended with status 2" in output


def test_outside_of_an_array_it_says_what_it_needs(slurm):
    del slurm["SLURM_ARRAY_TASK_ID"]
    assert "sbatch --array=1-N" in start(slurm, "runs/x").communicate(timeout=PATIENCE)[0]


@pytest.mark.slow
def test_an_array_evaluates_a_training_and_joins_one_result(slurm, tmp_path):
    """Three tasks side by side over the run of an earlier version, with no Python pretended."""
    slurm["PYTHONPATH"] = str(ROOT)
    place = shutil.copytree(ROOT / "tests" / "artifacts", tmp_path / "place")
    command = ["a=run-mlm", "b=export-mlm", "--data", "corpus", "--rows", "4", "--output", str(tmp_path / "out")]
    tasks = [start({**slurm, "SLURM_ARRAY_TASK_ID": task}, *command, cwd=place) for task in ("3", "5", "7")]
    for process in tasks:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    models = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert {name.partition("@")[0]: list(model["suites"]["losses"]) for name, model in models.items()} == {
        "a": ["masked", "next_sample", "next"], "b": ["masked", "next_sample", "next"],
    }  # fmt: skip
    assert (tmp_path / "out" / "dynamics-losses.png").exists()


def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
