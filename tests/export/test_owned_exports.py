"""Exports of killed and of living processes, of runs that are being trained, and folders whose names end in @5."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from megatron_ettin.ownership import claim_folder
from megatron_ettin.run_folder import list_checkpoints
from tests.export.test_runs import corpus, runs  # noqa: F401 - fixtures
from tests.support.launch import environment
from tests.support.warm import warm

HELD = """
import sys, time
import megatron_ettin.export.published as published
from megatron_ettin.cli import main
def hold(*arguments):
    time.sleep(600)
published.write_parity = hold
sys.exit(main(["convert", sys.argv[1], sys.argv[2]]))
"""


def command(*arguments: object) -> int:
    """A verb in this process, which loads what it needs once for all tests."""
    return main([str(argument) for argument in arguments])


def held_export(run: Path, target: Path) -> subprocess.Popen[str]:
    """An export that has written its folder and hangs before it is published."""
    program = [sys.executable, "-c", HELD, str(run), str(target)]
    process = subprocess.Popen(program, env=environment(), text=True)
    while not list(target.parent.glob(".*.incomplete-*/training.json")):
        assert process.poll() is None
        time.sleep(0.1)
    return process


def test_what_a_killed_export_left_is_removed_and_a_living_one_is_refused_by_name(runs, tmp_path, capsys):  # noqa: F811
    target = tmp_path / "export[1]"
    process = held_export(runs / "encoder", target)
    try:
        assert command("convert", runs / "encoder", target) == 2
        assert f"{target} is being written by process {process.pid}" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.iterdir())) == 1, "the staging folder"
    assert command("convert", runs / "encoder", target) == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert not [path.name for path in target.iterdir() if path.name.startswith(".")]


def test_leftovers_without_an_owner_go_once_nobody_has_touched_them_for_a_minute(runs, tmp_path):  # noqa: F811
    old, new = tmp_path / ".export.incomplete-1234", tmp_path / ".export.incomplete-5678"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (time.time() - 120, time.time() - 120))
    assert command("convert", runs / "encoder", tmp_path / "export") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "export"]


def test_a_run_that_is_being_trained_is_converted_and_evaluated_and_that_is_said(runs, tmp_path, capsys):  # noqa: F811
    run = shutil.copytree(runs / "encoder", tmp_path / "run@5")
    claim = claim_folder(run, "run", "ettin pretrain as a test")
    try:
        step = list_checkpoints(run)[0].step
        assert command("convert", f"{run}@{step}", tmp_path / "export") == 0
        said = capsys.readouterr().out
        assert f"{run} is being trained by process {os.getpid()}" in said and "logits equal" in said
        out = tmp_path / "evaluation"
        few = ("--rows", 2, "--sample", 4, "--text", "the")
        assert command("evaluate", f"model={run}", "--out", out, *few) == 0
        assert "is being trained by" in capsys.readouterr().out and (out / "results.json").exists()
    finally:
        claim.release()


@pytest.mark.parametrize("step", ["", "@3"])
def test_a_run_whose_name_ends_in_a_step_is_a_run(runs, corpus, tmp_path, step, capsys):  # noqa: F811
    run = shutil.copytree(runs / "encoder", tmp_path / "run@5")
    last = list_checkpoints(run)[-1].step
    assert last == 3
    assert command("convert", f"{run}{step}", tmp_path / "export") == 0
    assert "logits equal" in capsys.readouterr().out
    assert json.loads((tmp_path / "export" / "training.json").read_text())["state"]["step"] == last
    config = json.loads((run / "config.json").read_text())["model"]
    shape = [word for name in ("layers", "hidden", "intermediate", "heads", "window")
             for word in (f"--model.{name.replace('_', '-')}", config[name])]  # fmt: skip
    words = (
        "pretrain", "tiny", "mlm", "extension", "--run-folder", tmp_path / "next", "--from", f"{run}{step}",
        "--data", corpus, "--data.row-length", 128, "--data.piece-length", 128, "--batch.rows", 4, "--tokens", 500,
        "--layout.micro-batch-rows", 1, "--precision", "fp32", *shape,
    )  # fmt: skip
    started = warm(0, "megatron_ettin", *map(str, words))
    assert f"starting from {run / 'checkpoints'}" in started.stdout + started.stderr
