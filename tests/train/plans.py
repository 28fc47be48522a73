"""Small plans in this process: a size of its own, and the walk through their stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from megatron_ettin.commands.plan_flags import Planned, parse_plan
from megatron_ettin.commands.pretrain import PretrainFlags
from megatron_ettin.observe import read_records
from megatron_ettin.run_folder import list_checkpoints
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.walk import Walk, walk
from tests.support.launch import ROOT, environment
from tests.train.runs import ROW, no_folder, state_of, tensor_hashes
from tools.diff_runs import differences

SIZE = f"""\
like = "tiny"
[model]
layers = 2
hidden = 64
intermediate = 96
heads = 1
maximum_length = {ROW}
[recipe]
pretrain_tokens = 12_000
extension_tokens = 10_000
decay_tokens = 9_000
cross_tokens = 12_000
cross_warmup_tokens = 1_000
cross_fall_tokens = 2_000
rate_warmup_tokens = 2_000
batch_warmup_tokens = 3_000
short_row = 64
long_row = 128
long_piece = 120
pretrain_rows = 8
extension_rows = 4
decay_rows = 4
batch_increment = 4
short_micro_batch = 2
held_out_share = 0.05
"""
"""Stages of some ten steps."""


PLAN = """\
source = "a test"
[[stages]]
name = "words"
like = "pretrain"
objective = "clm"
[[stages]]
name = "masks"
like = "pretrain"
carries = ["weights", "optimizer", "order"]
[stages.schedule]
warmup_tokens = 0
[stages.batch]
warmup_tokens = 0
[[stages]]
name = "again"
like = "pretrain"
carries = ["weights"]
[[stages]]
name = "end"
like = "decay"
carries = ["weights", "optimizer"]
"""
FOLDERS = ("1-words", "2-masks", "3-again", "4-end")

PATIENCE = 240.0
"""Seconds within which a start ends."""
SAVES = ["--checkpoint.every-steps", "2"]
FLAGS = ["--observe.no-tensorboard", "--checkpoint.every-minutes", "0", "--observe.evaluate-rows", "8", *SAVES]
LAUNCHERS = {1: [], 2: ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]}


def size_file(folder: Path, text: str = SIZE) -> str:
    path = folder / "small.toml"
    path.write_text(text)
    return str(path)


def planned(size: str, plan: str, folder: Path, *flags: object) -> tuple[Planned, PretrainFlags]:
    quiet = ["--observe.no-tensorboard", "--checkpoint.every-minutes", "0", "--observe.evaluate-rows", "8"]
    arguments = [size, "--plan", plan, "--run-folder", folder, *quiet, *flags]
    return parse_plan(list(map(str, arguments)), PretrainFlags, "pretrain")


def go_through(
    size: str, plan: str, folder: Path, *flags: object, said: list[str] | None = None, read=no_folder
) -> int:
    """Walk a plan in this process; the signal that ended it."""
    asked, own = planned(size, plan, folder, *flags)
    folder.mkdir(exist_ok=True)
    this = Walk(
        plan=asked.plan, choices=asked.choices, stages=asked.stages, folder=asked.folder, command="test",
        start_over=own.start_over,
    )  # fmt: skip
    with StopRequest() as stop:
        return walk(this, read, stop, say=(said if said is not None else []).append)


def last_step(run: Path) -> int:
    return list_checkpoints(run)[-1].step


def assert_same_end(folder: Path, other: Path, names=FOLDERS) -> None:
    for name in names:
        step = last_step(folder / name)
        assert step == last_step(other / name) and state_of(folder / name, step) == state_of(other / name, step)
        assert tensor_hashes(folder / name, step) == tensor_hashes(other / name, step)
        assert differences(*(read_records(place / name, "step") for place in (folder, other))) == []
        assert [r["loss"] for r in read_records(folder / name, "evaluation")] == [
            r["loss"] for r in read_records(other / name, "evaluation")
        ]


def start(files: tuple[str, str, Path], folder: Path, ranks: int = 1, *flags: str) -> subprocess.Popen[bytes]:
    size, plan, corpus = files
    command = [sys.executable, "-m", *LAUNCHERS[ranks], "megatron_ettin", "pretrain", size, "--plan", plan]
    command += ["--run-folder", str(folder), "--data", str(corpus), *FLAGS, *flags]
    with (folder.parent / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the launcher or the one rank: others must end by themselves."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
