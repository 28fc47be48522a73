"""The example scripts are sound shell and do what they say."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megatron_ettin.export import read_folder
from tests.readme.test_readme import write_shims, write_text
from tests.support.html import assert_sound
from tests.support.launch import environment, ettin, run

SCRIPTS = ("three_stages.sh", "cross_objective.sh", "study.sh")
SHORT = ["--batch.rows", "2", "--batch.warmup-tokens", "0", "--layout.micro-batch-rows", "1"]
STUDY_TIMEOUT = 1800
KILLS = (
    ("train encoder-pretrain", 8.0), ("train decoder-extension", 5.0), ("export decoder", 1.0),
    ("encoder, stdlib module_of_function", 0.0), ("decoder, stdlib function_by_docstring", 0.3),
)  # fmt: skip
"""What the study says, and seconds after it."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_pass_shellcheck_and_explain_themselves(script, root):
    if shutil.which("shellcheck"):
        run(["shellcheck", root / "examples" / script])
    alone = ["--help"] if script == "study.sh" else []
    shown = run(["bash", root / "examples" / script, *alone], status=0 if alone else 2).stdout
    assert f"bash examples/{script}" in shown and "set -e" not in shown


def test_a_start_that_is_no_model_is_refused(root, tmp_path):
    result = run(["bash", root / "examples" / "cross_objective.sh", "tiny", tmp_path, "corpus", tmp_path], status=2)
    assert "neither a run nor a Hugging Face folder" in result.stderr


@pytest.mark.slow
def test_three_stages_and_both_crossings_end_in_exact_exports(root, tmp_path):
    """A decoder through its stages, then an encoder from it, then from the exported folder a decoder again."""
    write_shims(tmp_path / "bin")
    extra = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "ETTIN_RANKS": "1"}
    lines = [json.dumps({"text": f"number {i} is followed by number {i + 1}, " * (3 + i % 9)}) for i in range(300)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    ettin("tokenizer", "train", "--input", tmp_path / "text.jsonl", "--vocabulary", "400", "--output", tmp_path / "tok")
    ettin("prepare", "--input", tmp_path / "text.jsonl", "--tokenizer-model", tmp_path / "tok", "--output-prefix",
          tmp_path / "corpus")  # fmt: skip
    stages = ["bash", root / "examples" / "three_stages.sh", "tiny", "clm", tmp_path / "corpus", tmp_path / "runs"]
    run([*stages, "--tokens", "2000", "--schedule.warmup-tokens", "0", *SHORT], extra=extra)
    revisions = sorted(path.name.rstrip("0123456789") for path in (tmp_path / "runs/clm-huggingface").iterdir())
    assert revisions == ["decay", "ext", "step"]
    cross = ["bash", root / "examples" / "cross_objective.sh", "tiny"]
    short = ["--tokens", "2000", "--schedule.warmup-tokens", "0", "--schedule.decay-tokens", "500", "--batch.rows", "2"]
    run([*cross, tmp_path / "runs/clm-decay", tmp_path / "corpus", tmp_path / "runs", *short], extra=extra)
    encoder = tmp_path / "runs/encoder-from-decoder-huggingface"
    assert read_folder(encoder).config.objective == "mntp"
    run([*cross, encoder, tmp_path / "corpus", tmp_path / "runs", *short], extra=extra)
    assert read_folder(tmp_path / "runs/decoder-from-encoder-huggingface").config.objective == "clm"


@pytest.mark.slow
def test_a_study_of_ones_own_text_ends_with_a_report(root, tmp_path):
    write_shims(tmp_path / "bin")
    write_text(root, tmp_path / "my_text.jsonl")
    extra = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "ETTIN_VOCABULARY": "600"}
    study = ["bash", root / "examples/study.sh", tmp_path / "my_text.jsonl", tmp_path / "study"]
    run([*study, "--size", "tiny", "--tokens", "12000"], extra=extra, timeout=STUDY_TIMEOUT)
    report = json.loads((tmp_path / "study/report.json").read_text())
    assert len(report["models"]) == 4 and all(model["parity"]["met"] for model in report["models"].values())


@pytest.mark.slow
def test_the_study_without_arguments_goes_on_wherever_it_is_killed(root, tmp_path):
    """SIGKILL to all of it, again and again; outcomes that were there stay as they are, and it ends with everything."""
    write_shims(tmp_path / "bin")
    study = tmp_path / "toy"
    extra = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "ETTIN_STUDY": str(study),
             "ETTIN_TOKENS": "40K", "ETTIN_VOCABULARY": "1000"}  # fmt: skip
    kept: dict[Path, int] = {}
    for words, seconds in KILLS:
        killed_at(words, seconds, ["bash", str(root / "examples" / "study.sh")], environment(extra))
        kept |= {path: path.stat().st_mtime_ns for path in study.rglob("parts/*.json")}
    assert len(kept) >= 2, "some outcomes were there before the last kill"
    run(["bash", root / "examples" / "study.sh"], extra=extra, timeout=STUDY_TIMEOUT)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    results = json.loads((study / "results.json").read_text())["models"]
    assert len(results) == 4
    for model in results.values():
        assert set(model["suites"]) == {"losses", "stdlib"}
        assert all(found["status"] == "done" for found in model["suites"]["stdlib"].values())
    assert_sound((study / "report.html").read_text())
    assert json.loads((study / "report.json").read_text())["failed"] == []


def killed_at(words: str, seconds: float, command: list[str], variables: dict[str, str]) -> None:
    """Start the command, and kill it and whatever it started so many seconds after it has said the words."""
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            break
    assert said and words in said[-1], "".join(said[-40:])
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_no_line_of_the_examples_is_endless(root: Path):
    for name in (*SCRIPTS, "own_data.md"):
        assert max(map(len, (root / "examples" / name).read_text().splitlines())) <= 130, name
