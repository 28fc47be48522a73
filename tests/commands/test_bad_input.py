"""A mistake of the user ends with one message: what, where, which rule, and the remedy; never with a traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from megatron_ettin.tokenizer.train import train_tokenizer
from tests.support.launch import run, torchrun
from tests.twins.corpus_writer import write_corpus


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"the sea and {number} ships"}) + "\n" for number in range(40)))
    return path


@pytest.fixture
def tokenizer(tmp_path: Path, text: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(iter([text.read_text()]), 300).save(str(path))
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that is refused says."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(tmp_path, text, tokenizer, capsys):
    corpus = write_corpus(tmp_path / "corpus", [[1, 2, 3]] * 4)
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "inside"
    commands = {
        "tokenizer": ("tokenizer", "train", "--input", text, "--vocabulary", "300", "--output", inside),
        "prepare": ("prepare", "--input", text, "--tokenizer-model", tokenizer, "--output-prefix", inside),
        "merge": ("corpus", "merge", inside, corpus, corpus),
        "estimate": ("estimate", "--json", inside),
    }
    for name, command in commands.items():
        said = refusal(capsys, *command)
        assert str(tmp_path / "file") in said and "choose another" in said, name


def test_a_missing_tokenizer_is_named_with_the_way_to_make_one(tmp_path, text, capsys):
    for missing in (tmp_path / "nowhere", tmp_path):
        said = refusal(
            capsys, "prepare", "--input", text, "--tokenizer-model", missing, "--output-prefix", tmp_path / "c"
        )
        assert str(missing) in said and "ettin tokenizer train" in said and "Errno" not in said


def test_a_file_that_is_no_tokenizer_is_told_so(tmp_path, text, capsys):
    said = refusal(capsys, "prepare", "--input", text, "--tokenizer-model", text, "--output-prefix", tmp_path / "c")
    assert "not a tokenizer.json" in said and "ettin tokenizer train" in said


def test_a_study_without_text_to_train_on_or_to_hold_out_is_refused_before_any_step(tmp_path, capsys):
    documents = {"no documents": [], "only empty documents": [[]], "is held out": [[7, 8, 9]]}
    for number, (reason, content) in enumerate(documents.items()):
        corpus = write_corpus(tmp_path / f"corpus{number}", content)
        said = refusal(capsys, "study", "--data", corpus, "--run", tmp_path / "study", "--tokens", "12000")
        assert reason in said
    assert not (tmp_path / "study").exists()


def test_no_tokenizer_is_learned_from_no_text(tmp_path, capsys):
    for content in ("", "\n", '{"text": ""}\n'):
        (tmp_path / "empty.jsonl").write_text(content)
        said = refusal(
            capsys, "tokenizer", "train", "--input", tmp_path / "empty.jsonl", "--output", tmp_path / "tokenizer"
        )
        assert "no text" in said
        assert not (tmp_path / "tokenizer").exists()


def test_a_text_too_short_for_the_vocabulary_is_told(tmp_path, text, capsys):
    command = ["tokenizer", "train", "--input", str(text), "--vocabulary", "5000", "--output", str(tmp_path / "t")]
    assert main(command) == 0
    assert "of the 5000 tokens asked for" in capsys.readouterr().out


def test_the_summary_of_torchrun_ends_with_the_reason(tmp_path):
    result = torchrun(
        2, "-m", "megatron_ettin", "pretrain", "tiny", "mlm", "pretrain", "--run-folder", tmp_path, "--data", "c",
        "--tensor", "4", status=1,
    )  # fmt: skip
    assert "has a new message format" not in result.stderr
    summary = result.stderr[result.stderr.rindex("Root Cause") :]
    assert "error: layout.tensor=4" in summary and "does not divide the world size 2" in summary


def test_the_launcher_of_a_study_adds_no_traceback(tmp_path):
    command = [sys.executable, "-m", "megatron_ettin.study.launch", "--standalone", "--nproc-per-node=1"]
    wrong = ["-m", "megatron_ettin", "pretrain", "tiny", "mlm", "pretrain", "--run-folder", tmp_path, "--tensor", "4"]
    result = run([*command, *wrong], status=2)
    assert "error: layout.tensor=4" in result.stderr and "Traceback" not in result.stderr
