"""Row indexes may take longer to build than a collective waits: the job goes on."""

from __future__ import annotations

from tests.support.launch import torchrun
from tests.train.runs import write_toy

CLOCK, BUILD = 8.0, 11.0
"""Seconds that a collective waits, and that the first rank builds."""

RANK = f"""
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from megatron_ettin.train import run as run_module
from tests.train.runs import config_of, go

begin, open_data = dist.init_process_group, run_module.open_data
dist.init_process_group = lambda *a, **options: begin(*a, **options | {{"timeout": timedelta(seconds={CLOCK})}})

def open_slowly(config):
    first = os.environ["RANK"] == "0" and not list(Path(config.data.data).parent.glob("*.pack"))
    if first:
        time.sleep(float(sys.argv[4]))
        print("built", flush=True)
        if sys.argv[3] == "fails":
            raise OSError("the disk has gone")
    return open_data(config)

run_module.open_data = open_slowly
go(config_of(Path(sys.argv[1]), steps=2), Path(sys.argv[2]))
print("finished", flush=True)
dist.destroy_process_group()
"""


def launch(folder, end: str, seconds: float = BUILD):
    (folder / "rank.py").write_text(RANK)
    return torchrun(2, folder / "rank.py", write_toy(folder), folder / "run", end, str(seconds), status=None)


def test_an_index_that_takes_longer_than_a_collective_waits_does_not_end_the_job(tmp_path):
    ended = launch(tmp_path, "builds")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-5000:]
    assert ended.stdout.count("built") == 1 and ended.stdout.count("finished\n") >= 2


def test_an_index_that_cannot_be_built_ends_every_rank_with_the_reason(tmp_path):
    program = RANK.replace("time.sleep(float(sys.argv[4]))", "time.sleep(0.5)")
    (tmp_path / "rank.py").write_text(program)
    ended = torchrun(2, tmp_path / "rank.py", write_toy(tmp_path), tmp_path / "run", "fails", status=None)
    assert ended.returncode != 0 and "finished" not in ended.stdout
    assert "the disk has gone" in ended.stderr and "rank 0: OSError" in ended.stderr
