"""The Slurm script on two pretended nodes: a signal saves and requeues, the next slot finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.launch import ROOT, with_programs
from tests.train.plans import PLAN, assert_same_end, size_file
from tests.train.runs import write_toy

SCRIPT, STAGES = (ROOT / "examples" / name for name in ("pretrain_ettin.sh", "slurm_stages.sh"))
PATIENCE = 300.0
SMALL = (
    "--data.row-length 128 --data.piece-length 128 --model.layers 2 --tokens 15000 --schedule.warmup-tokens 0"
    " --batch.rows 4 --batch.warmup-tokens 0 --micro-batch 1 --precision fp32 --data.held-out-share 0.05"
    " --observe.no-tensorboard"
)
"""Flags of a training of seconds."""
PRETENDED = {
    # Both "nodes" on this machine, side by side; their process ids are where scancel finds them.
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> "$PRETENDED/asked"; shift; done
pids=()
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
echo "${pids[@]}" > "$PRETENDED/pids"
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
""",
    "scontrol": """#!/bin/bash
case "$1 $2" in
  "show hostnames") echo localhost ;;
  "show nodes") cat "$PRETENDED/nodes" 2>/dev/null ;;
  requeue*) echo "$2" >> "$PRETENDED/requeued" ;;
esac
""",
    "scancel": """#!/bin/bash
echo "$@" >> "$PRETENDED/cancelled"
kill -USR1 $(cat "$PRETENDED/pids")
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm seems to be installed and has given a job two nodes."""
    return with_programs(
        tmp_path, PRETENDED,
        {
            "SLURM_NNODES": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "two",
            "ETTIN_PROCESSES_PER_NODE": "1", "SLURM_CPUS_ON_NODE": "96",
        },
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
    options = f"tiny mlm pretrain --run={run} --data {corpus} {SMALL}".split()
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


FAKE_RUN = """#!/bin/bash
# In the place of Python: a training that listens, saves when it is told to, and ends as ETTIN_ENDS says.
trap 'mkdir -p "$FAKE_RUN/checkpoints/step-$((10#$RANDOM + 10000000))"; exit ${ETTIN_ENDS:-75}' USR1
echo listens > "$PRETENDED/running-$SLURM_NODEID"
for _ in $(seq ${ETTIN_TENTHS:-600}); do sleep 0.1; done
exit ${ETTIN_ENDS:-0}
"""


def ended(slurm, tmp_path, signals=(), **extra):
    """(exit status, output, requeued jobs, cancelled jobs) of the script over a pretended training."""
    (tmp_path / "python").write_text(FAKE_RUN)
    (tmp_path / "python").chmod(0o755)
    run = tmp_path / "run"
    started = start({**slurm, "FAKE_RUN": str(run), **extra}, "tiny", "mlm", "pretrain", "--run", str(run))
    for number in signals:
        for node in (0, 1):
            deadline = time.monotonic() + 20
            while not (tmp_path / f"running-{node}").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        started.send_signal(number)
    output, _ = started.communicate(timeout=60)
    files = [tmp_path / "requeued", tmp_path / "cancelled"]
    return started.returncode, output, *(file.read_text().split() if file.exists() else [] for file in files)


def test_ranks_get_all_cores_of_their_node(slurm, tmp_path):
    assert "\n#SBATCH --exclusive\n" in SCRIPT.read_text()
    ended(slurm, tmp_path, ETTIN_TENTHS="1")
    assert (tmp_path / "asked").read_text().split() == ["--kill-on-bad-exit=1", "--cpu-bind=none", "--cpus-per-task=96"]


def test_a_stage_that_ends_well_is_finished_whatever_LATEST_says(slurm, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "LATEST").write_text("step-00000001\n")  # stale: no such folder
    status, output, requeued, _ = ended(slurm, tmp_path, ETTIN_TENTHS="1")
    assert (status, requeued) == (0, []) and "finished:" in output


def test_a_stage_that_failed_is_not_finished_whatever_LATEST_says(slurm, tmp_path):
    old = tmp_path / "run" / "checkpoints" / "step-00000001"
    old.mkdir(parents=True)
    (old / "state.json").write_text('{"state": {"finished": true}}')
    (old.parent / "LATEST").write_text(old.name)
    status, output, requeued, _ = ended(slurm, tmp_path, ETTIN_TENTHS="1", ETTIN_ENDS="2")
    assert (status, requeued) == (2, []) and "asking for no other slot" in output


def test_scancel_saves_and_is_not_requeued(slurm, tmp_path):
    status, output, requeued, _ = ended(slurm, tmp_path, [signal.SIGTERM])
    assert (status, requeued) == (75, []) and "stopped by scancel" in output and "step-" in output


def test_ranks_killed_by_the_signal_before_they_listened_are_given_another_slot(slurm, tmp_path):
    status, output, requeued, _ = ended(slurm, tmp_path, [signal.SIGUSR1], ETTIN_ENDS="138")
    assert (status, requeued) == (0, [slurm["SLURM_JOB_ID"]])


def test_slots_that_never_save_are_not_asked_for_again_for_ever(slurm, tmp_path):
    ends = {"FAKE_RUN": "/dev/null", "SLURM_RESTART_COUNT": "3"}
    status, output, requeued, _ = ended(slurm, tmp_path, [signal.SIGUSR1], **ends)
    assert status == 1 and requeued == [] and "saved nothing" in output


def test_stages_of_a_plan_are_progress(slurm, tmp_path):
    """A slot that saved in the tenth stage is not taken for one that saved nothing."""
    run = tmp_path / "run"
    for stage in ("1-pretrain", "9-decay"):
        (run / stage / "checkpoints" / "step-99999999").mkdir(parents=True)
    ends = {"FAKE_RUN": str(run / "10-end"), "SLURM_RESTART_COUNT": "3"}
    status, output, requeued, _ = ended(slurm, tmp_path, [signal.SIGUSR1], **ends)
    assert (status, requeued) == (0, [slurm["SLURM_JOB_ID"]]) and "10-end/checkpoints/step-" in output


@pytest.mark.slow
def test_a_plan_is_requeued_through_all_of_its_stages(slurm, tmp_path):
    """Real trainings on two pretended nodes: the time limit falls into the first, the second and the last stage."""
    corpus, run = write_toy(tmp_path), tmp_path / "run"
    (tmp_path / "four.toml").write_text(PLAN)
    size, plan = size_file(tmp_path), tmp_path / "four.toml"
    flags = f"{size} --plan {plan} --run {run} --data {corpus} --observe.no-tensorboard"
    for slot, stage in enumerate(("1-words", "2-masks", "4-end", "")):
        started = start({**slurm, "SLURM_RESTART_COUNT": str(slot)}, *flags.split())
        if stage:
            wait_for(run / stage / "metrics.jsonl", started)
            started.send_signal(signal.SIGUSR1)
        output, _ = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0, output
        asked = (tmp_path / "requeued").read_text().split()
        assert len(asked) == slot + bool(stage), output
    assert f"finished: {run}" in output
    whole = tmp_path / "whole"
    undisturbed = start(slurm, *flags.replace(str(run), str(whole)).split())
    output, _ = undisturbed.communicate(timeout=PATIENCE)
    assert undisturbed.returncode == 0, output
    assert_same_end(run, whole)


def test_a_job_whose_node_failed_is_given_another_slot(slurm, tmp_path):
    (tmp_path / "nodes").write_text("NodeName=b CoresPerSocket=8\n   State=DOWN*+DRAIN ThreadsPerCore=1\n")
    status, output, requeued, _ = ended(slurm, tmp_path, ETTIN_TENTHS="1", ETTIN_ENDS="143")
    assert (status, requeued) == (0, [slurm["SLURM_JOB_ID"]]) and "a node failed" in output


def test_one_task_of_an_array_never_stands_for_the_whole_array(slurm, tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": slurm["SLURM_JOB_ID"], "SLURM_ARRAY_TASK_ID": "3"}
    status, output, requeued, cancelled = ended(slurm, tmp_path, [signal.SIGUSR1], **array)
    task = f"{slurm['SLURM_JOB_ID']}_3"
    assert (status, requeued, cancelled) == (0, [task], ["--signal=USR1", task])


@pytest.mark.slow
def test_a_broken_run_asks_for_no_other_slot(slurm, tmp_path):
    process = start(slurm, "tiny", "mlm", "pretrain", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "none"))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and "asking for no other slot" in output, output
    assert not (tmp_path / "requeued").exists()


def test_the_script_says_what_it_needs(slurm, tmp_path):
    assert "give the run a folder with --run" in start(slurm, "tiny", "mlm", "pretrain").communicate()[0]


def test_behind_adapt_the_script_goes_on_from_a_published_model(slurm, tmp_path):
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@" > "$PRETENDED/asked"\n')
    process = start(slurm, "adapt", "OWNER/NAME", "--data", "my_text", "--tokens", "2B", "--run", str(tmp_path / "run"))
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0 and f"finished: {tmp_path / 'run'}" in output
    asked = (tmp_path / "asked").read_text()
    assert "-m megatron_ettin adapt OWNER/NAME --data my_text --tokens 2B --run-folder" in asked


def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", str(SCRIPT), str(STAGES)], check=True)


SBATCH = """#!/bin/bash
# Numbers the job and keeps its arguments, one a line.
for _ in $(ls "$PRETENDED/jobs") new; do ((number = ${number:-100} + 1)); done
printf '%s\\n' "$@" > "$PRETENDED/jobs/$number"
echo "$number;cluster"
"""


class Queue:
    """What Slurm does with jobs that depend on one another, in this process."""

    def __init__(self, slurm: dict[str, str], folder: Path) -> None:
        (folder / "sbatch").write_text(SBATCH)
        (folder / "sbatch").chmod(0o755)
        (folder / "jobs").mkdir()
        self.slurm, self.folder, self.done = slurm, folder, []

    def submit(self, *arguments: str) -> str:
        return subprocess.run(
            ["bash", str(STAGES), *arguments], cwd=ROOT, env=self.slurm, text=True, capture_output=True, check=True
        ).stdout

    def jobs(self) -> dict[str, list[str]]:
        return {path.name: path.read_text().splitlines() for path in sorted((self.folder / "jobs").iterdir())}

    def ready(self) -> list[str]:
        """Jobs whose dependency has ended well: a job that was requeued has not ended."""
        waits = {job: words[words.index("--dependency") + 1] if "--dependency" in words else ""
                 for job, words in self.jobs().items()}  # fmt: skip
        return [job for job, before in waits.items()
                if job not in self.done and (not before or before.removeprefix("afterok:") in self.done)]  # fmt: skip

    def slot(self, job: str, restarts: int = 0, signal_when: Path | None = None) -> tuple[str, list[str]]:
        """Run a job once; returns its output and the arguments of its script."""
        words = self.jobs()[job]
        script = words.index(str(SCRIPT))
        given = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)}
        started = start({**self.slurm, **given}, *words[script + 1 :])
        if signal_when is not None:
            wait_for(signal_when, started)
            started.send_signal(signal.SIGUSR1)
        output, _ = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0, output
        requeued = self.folder / "requeued"
        if requeued.exists():
            requeued.unlink()
        elif started.returncode == 0:
            self.done.append(job)
        return output, words[script + 1 :]


def test_stages_are_jobs_that_wait_for_the_end_of_the_one_before(slurm, tmp_path):
    """The first stage needs two slots; between them no other job is ready."""
    queue = Queue({**slurm, "ETTIN_SBATCH": "--nodes 2 --time 1:00:00", "DECAY_DATA": "decay.json"}, tmp_path)
    (tmp_path / "python").write_text(FAKE_RUN)
    (tmp_path / "python").chmod(0o755)
    queue.slurm |= {"FAKE_RUN": str(tmp_path / "runs" / "mlm-pretrain"), "ETTIN_TENTHS": "600"}
    said = queue.submit("17m", "mlm", "corpus/text", str(tmp_path / "runs"), "--precision", "fp32")
    first, second, third = queue.jobs()
    named = zip(("pretrain", "extension", "decay"), queue.jobs(), strict=True)
    assert said.splitlines() == [f"mlm-{stage}: job {job}" for stage, job in named]
    assert all(words[:2] == ["--parsable", "--job-name"] and "--nodes" in words for words in queue.jobs().values())
    assert queue.ready() == [first]
    queue.slot(first, signal_when=tmp_path / "running-1")
    assert queue.ready() == [first], "a job that waits for another slot has not ended"
    queue.slurm["ETTIN_TENTHS"] = "1"
    queue.slot(first, restarts=1)
    assert queue.ready() == [second]
    _, words = queue.slot(second)
    assert words[words.index("--from") + 1] == f"{tmp_path}/runs/mlm-pretrain"
    assert queue.ready() == [third]
    _, words = queue.slot(third)
    assert words[words.index("--data") + 1] == "decay.json" and words[-2:] == ["--precision", "fp32"]
    assert queue.ready() == []


@pytest.mark.slow
def test_a_model_goes_through_its_stages_as_jobs(slurm, tmp_path):
    """Real trainings: the first job is stopped ahead of its limit, goes on, and hands its weights to the next."""
    corpus, runs, queue = write_toy(tmp_path), tmp_path / "runs", Queue(slurm, tmp_path)
    queue.submit("tiny", "mlm", str(corpus), str(runs), *SMALL.split())
    first, second, third = queue.jobs()
    queue.slot(first, signal_when=runs / "mlm-pretrain" / "metrics.jsonl")
    assert queue.ready() == [first]
    queue.slot(first, restarts=1)
    for job, stage, before in ((second, "extension", "pretrain"), (third, "decay", "extension")):
        assert queue.ready() == [job]
        output, _ = queue.slot(job)
        assert f"starting from {runs}/mlm-{before}/checkpoints" in output and f"finished: {runs}/mlm-{stage}" in output
