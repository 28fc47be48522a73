"""The Slurm script that builds a corpus on many machines: killed tasks are requeued or submitted again, then joined."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.corpus.reader import open_corpus
from tests.corpus.conftest import jsonl, make_texts, texts, tokenizer  # noqa: F401 - fixtures
from tests.support.launch import ROOT, with_programs

SCRIPT = ROOT / "examples" / "prepare_corpus.sh"
PATIENCE = 120.0
TEXTS = 6000
"""A shard of a third of them takes the slow tokenizer about a second: long enough to be killed in."""
PRETENDED = {
    "srun": '#!/bin/bash\nshift\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> "$PRETENDED/requeued"\n',
    "sbatch": """#!/bin/bash
# Numbers the job and keeps its arguments, one a line.
number=$((100 + $(ls "$PRETENDED/jobs" | wc -l)))
printf '%s\\n' "$@" > "$PRETENDED/jobs/$number"
echo "$number;cluster"
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm seems to be installed."""
    (tmp_path / "programs" / "jobs").mkdir(parents=True)
    return with_programs(tmp_path / "programs", PRETENDED, {"ETTIN_SBATCH": "--partition cpu"})


def submit(slurm: dict[str, str], *arguments: str) -> str:
    given = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(given, cwd=ROOT, env=slurm, text=True, capture_output=True, check=True).stdout


def job(slurm: dict[str, str], number: int) -> tuple[dict[str, str], list[str]]:
    """(flags of sbatch, words for the script) of a job that was submitted."""
    words = Path(slurm["PRETENDED"], "jobs", str(number)).read_text().splitlines()
    at = words.index(str(SCRIPT))
    flags = [word for word in words[:at] if word != "--parsable"]
    return dict(zip(flags[::2], flags[1::2], strict=True)), words[at + 1 :]


def start(slurm: dict[str, str], words: list[str], task: int | None = None) -> subprocess.Popen[str]:
    """A job, or one task of an array, on a pretended node."""
    array = {} if task is None else {"SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": str(task)}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words], cwd=ROOT, env=slurm | {"SLURM_JOB_ID": "100"} | array, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    return output


def kill_while_it_builds(slurm, words, task: int, prefix: Path, number: int, pattern: str) -> subprocess.Popen[str]:
    """Start a task and send a signal to what ``pattern`` names once it has begun to write."""
    process = start(slurm, words, task)
    staged = prefix.parent / f".{prefix.name}-{task:05d}-of-00003.incomplete" / "0.tokens"
    deadline = time.monotonic() + PATIENCE
    while not staged.exists():
        assert process.poll() is None and time.monotonic() < deadline, output_of(process)
        time.sleep(0.005)
    if pattern == "script":
        process.send_signal(number)
    else:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], text=True, capture_output=True, check=True).stdout
        subprocess.run(["kill", f"-{number}", *found.split()], check=True)
    return process


def test_killed_tasks_go_on_and_the_last_job_joins_the_corpus(slurm, tmp_path, tokenizer):  # noqa: F811
    source, prefix = tmp_path / "text.jsonl", tmp_path / "corpus" / "web"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in make_texts(TEXTS)))
    flags = ["--input", str(source), "--tokenizer-model", str(tokenizer), "--tokenizer-engine", "huggingface"]
    said = submit(slurm, "3", str(prefix), *flags)
    assert said.splitlines() == ["shards 0-2: job 100", "check and join: job 101"]
    (given, words), (waits, last) = job(slurm, 100), job(slurm, 101)
    assert given == {"--job-name": "prepare-web", "--partition": "cpu", "--array": "0-2"}
    assert waits["--dependency"] == "afterok:100" and waits["--kill-on-invalid-dep"] == "yes"
    # task 0 ends well, task 1 comes to its time limit, the process of task 2 is killed
    assert "finished: shard 0 of 3" in output_of(start(slurm, words, 0))
    assert "asking for another slot" in output_of(
        kill_while_it_builds(slurm, words, 1, prefix, signal.SIGUSR1, "script")
    )
    assert Path(slurm["PRETENDED"], "requeued").read_text() == "requeue 100_1\n"
    killed = kill_while_it_builds(slurm, words, 2, prefix, signal.SIGKILL, "process")
    assert "ended with status 137; what it built is kept" in output_of(killed) and killed.returncode == 137
    # Slurm drops the job that waited; the same command submits what is left
    assert submit(slurm, "3", str(prefix), *flags).splitlines()[0] == "shards 1-2: job 102"
    again, words = job(slurm, 102)
    assert again["--array"] == "1-2" and words[:3] == ["build", "3", str(prefix)]
    for task in (1, 2):
        assert f"finished: shard {task} of 3" in output_of(start(slurm, words, task))
    joining = start(slurm, last)
    shown = output_of(joining)
    assert joining.returncode == 0 and "3 finished" in shown and "3 corpora, read in place" in shown, shown
    assert open_corpus(prefix).fingerprint == build_corpus(source, tmp_path / "whole", tokenizer).corpus.fingerprint
    assert submit(slurm, "3", str(prefix), *flags) == "check and join: job 104\n"


def test_the_script_says_what_it_needs(slurm):
    process = start(slurm, ["3"])
    assert "bash examples/prepare_corpus.sh 64 corpus/web" in output_of(process) and process.returncode == 2


def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
