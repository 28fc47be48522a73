"""The quickstart does the main job, from text to four converted models and a report."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.readme.test_readme import write_shims, write_text
from tests.support.html import assert_sound
from tests.support.launch import environment, run

SHORT = ["--tokens", "12000", "--vocabulary", "600"]
"""Enough for a few steps of every stage; what the models learn is not looked at."""
KINDS = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")
SHORT_TIMEOUT = 900
FULL_TIMEOUT = 1800
LEARNED = 0.3
"""Nats a token below the unigram entropy of the held-out text: noise of that text is under 0.1, what is learned above
0.5."""


def ready(folder: Path) -> dict[str, str]:
    """Variables that make the script use the environment of this test instead of setting one up."""
    write_shims(folder / "bin")
    return {"ETTIN_ENVIRONMENT": "ready", "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def quickstart(root: Path, work: Path, *arguments: str, extra: dict[str, str], timeout: int = SHORT_TIMEOUT) -> str:
    """Run the script and return what it printed."""
    result = subprocess.run(
        ["bash", "examples/quickstart.sh", "--work", str(work), *arguments],
        cwd=root, env=environment(extra), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-8000:]}"
    return result.stdout


def assert_whole_report(study: Path) -> None:
    """Four kinds of model, each with both losses and a met parity, and plots."""
    report = json.loads((study / "report.json").read_text())
    assert set(report["models"]) == set(KINDS)
    for kind in report["models"].values():
        assert kind["parity"]["met"]
        assert kind["losses"]["mlm"] > 0
        assert kind["losses"]["clm"] > 0
    assert list(study.glob("*.png"))
    assert_sound((study / "report.html").read_text())


def test_quickstart_on_own_text_ends_with_a_whole_report_and_resumes(root: Path, tmp_path: Path) -> None:
    text = tmp_path / "texts"
    text.mkdir()
    write_text(root, text / "a.jsonl")
    write_text(root, text / "b.jsonl")
    work, extra = tmp_path / "work", ready(tmp_path)
    quickstart(root, work, "--data", str(text), *SHORT, extra=extra)
    assert_whole_report(work / "study")
    before = {path: path.stat().st_mtime_ns for path in work.rglob("metrics.jsonl")}
    quickstart(root, work, "--data", str(text), *SHORT, extra=extra)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("metrics.jsonl")} == before


MISTAKES = {
    "missing text": (["--data", "{work}/nowhere"], "does not exist"),
    "empty text": (["--data", "{empty}"], "no text in the input"),
    "a folder without text": (["--data", "{folder}"], "no input file there"),
    "an unknown size": (["--data", "{text}", "--size", "18m"], "no size '18m'"),
    "too few tokens": (["--data", "{text}", "--tokens", "10"], "use 2,048 or more"),
    "no ranks": (["--data", "{text}", "--ranks", "0"], "--ranks 0: use 1 or more"),
    "a missing tokenizer": (["--data", "{text}", "--tokenizer", "{work}/nowhere"], "does not exist"),
    "no tokenizer": (["--data", "{text}", "--tokenizer", "{text}"], "not a tokenizer.json"),
    "an unknown option": (["--dta", "{text}"], "unknown option --dta"),
    "no place to write": (["--data", "{text}", "--work", "{text}"], "choose another folder with --work"),
}


def test_mistakes_of_quickstart_are_told_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("work", "empty.jsonl", "folder", "text.jsonl")}
    places["empty.jsonl"].write_text("")
    places["folder"].mkdir()
    places["text.jsonl"].write_text('{"text": "some words"}\n')
    named = {name.removesuffix(".jsonl"): path for name, path in places.items()}
    extra = ready(tmp_path)
    for mistake, (arguments, message) in MISTAKES.items():
        work = tmp_path / "works" / mistake.replace(" ", "-")
        flags = [argument.format(**named) for argument in arguments]
        result = run(["bash", root / "examples/quickstart.sh", "--work", work, *flags], extra=extra, status=2)
        assert message in result.stderr, mistake
        assert "error: " in result.stderr and "Traceback" not in result.stderr, mistake
        assert not (work / "study").exists(), mistake


@pytest.mark.slow
def test_quickstart_from_a_fresh_clone_learns(root: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
    quickstart(clone, clone / ".quickstart", extra={}, timeout=FULL_TIMEOUT)
    study = clone / ".quickstart" / "study"
    assert_whole_report(study)
    report = json.loads((study / "report.json").read_text())
    entropy = report["evaluation"]["text"]["unigram_nats_per_token"]
    assert report["models"]["encoder"]["losses"]["mlm"] < entropy - LEARNED
    assert report["models"]["decoder"]["losses"]["clm"] < entropy - LEARNED
    assert report["failed"] == [] and report["conclusions"]
    assert_sound((study / "report.html").read_text())
    results = json.loads((study / "results.json").read_text())["models"]
    assert set(results) == set(KINDS)
    for kind in results.values():
        found = kind["suites"]["stdlib"]
        assert len(found) == 3 and all(result["status"] == "done" for result in found.values())
        probe = found["module_of_function"]
        assert probe["interval"][0] > probe["details"]["chance"], "something about code was learned"
