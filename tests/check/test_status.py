"""``ettin status``: one screen about a run, without torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ettin.check.status import run_status
from megatron_ettin.errors import CheckpointError
from megatron_ettin.run_folder import list_checkpoints
from tests.support.launch import ettin, run
from tests.train.runs import config_of, go, write_toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("status")
    config = config_of(write_toy(folder), steps=6, checkpoint__every_steps=2)
    go(config, folder / "run")
    return folder / "run"


@pytest.fixture
def owner(trained: Path) -> Iterator[subprocess.Popen[str]]:
    program = "import sys, pathlib; from megatron_ettin.ownership import claim_folder; "
    program += "claim_folder(pathlib.Path(sys.argv[1]), 'run', 'a training'); print('owns', flush=True); "
    program += "sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(trained)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "owns\n"
    yield process
    process.kill()
    process.wait()


def test_a_screen_says_how_far_a_run_is_and_what_a_start_would_do(trained: Path) -> None:
    lines = dict(run_status(trained))
    assert lines["run"].endswith("tiny mlm pretrain") and lines["owner"] == "nobody"
    last = list_checkpoints(trained)[-1].step
    assert lines["progress"].startswith(f"step {last}, ") and "(100%)" in lines["progress"]
    assert "held out" in lines["loss"] and lines["saved"].startswith(f"step {last} (end)")
    assert lines["a start"].startswith(f"would find the stage finished at step {last}")
    printed = ettin("status", trained).stdout
    assert len(printed.splitlines()) <= 24 and all(name in printed for name in lines)


def test_a_living_owner_is_seen_and_a_killed_one_too(trained: Path, owner: subprocess.Popen[str]) -> None:
    lines = dict(run_status(trained))
    assert f"process {owner.pid} on " in lines["owner"] and lines["owner"].endswith("it lives")
    assert lines["a start"] == "would be refused: the owner lives"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert dict(run_status(trained))["owner"].endswith("it is gone")


def test_a_damaged_newest_checkpoint_is_told_before_the_start(trained: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(trained), str(tmp_path / "run")], check=True)
    for checkpoint in list_checkpoints(tmp_path / "run")[1:]:
        os.truncate(checkpoint.path / "state.json", 3)
    start = dict(run_status(tmp_path / "run"))["a start"]
    last = list_checkpoints(trained)[-1]
    assert start.startswith(f"would go on from step 2, setting aside {last.path.name} is damaged")
    os.truncate(list_checkpoints(tmp_path / "run")[0].path / "state.json", 3)
    start = dict(run_status(tmp_path / "run"))["a start"]
    assert start.startswith(f"would be refused: {tmp_path / 'run'} was at step {last.step} and would begin at step 0")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not the folder of a run"):
        list(run_status(tmp_path))


def test_status_needs_no_torch(trained: Path) -> None:
    program = "import sys; from megatron_ettin.cli import main; main(sys.argv[1:]); "
    program += "import json; print(json.dumps([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules]))"
    assert json.loads(run([sys.executable, "-c", program, "status", trained]).stdout.splitlines()[-1]) == []
