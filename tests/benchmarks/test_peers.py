"""A peer that is not installed is told with how to install it; a claim about other text than the given one names it."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks import corpus_build, texts
from benchmarks.reporting import require
from tests.support.launch import run

INSTALL = "pip install '.[bench]'"


def test_a_missing_module_ends_the_program_with_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    require("json", "os.path", install="never")
    with pytest.raises(SystemExit) as ended:
        require("json", "no_such_module", "no_such_package.part", install=INSTALL)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: no_such_module, no_such_package.part not installed") and INSTALL in told


@pytest.mark.parametrize("arguments", [["corpus.py", "--quick"], ["corpus_build.py", "--quick", "--only", "gigatoken"]])
def test_the_tokenizer_benchmarks_say_how_to_install_gigatoken(root: Path, arguments: list[str]) -> None:
    if importlib.util.find_spec("gigatoken"):
        pytest.skip("gigatoken is installed")
    result = run([sys.executable, root / "benchmarks" / arguments[0], *arguments[1:]], status=2)
    assert INSTALL in result.stderr and "Traceback" not in result.stderr


def test_a_python_without_datatrove_is_told(root: Path) -> None:
    command = [sys.executable, root / "benchmarks" / "corpus_build.py", "--quick", "--only", "datatrove"]
    result = run(command, extra={"ETTIN_DATATROVE_PYTHON": "/nowhere/python"}, status=2)
    assert "/nowhere/python -m pip install 'datatrove" in result.stderr and "Traceback" not in result.stderr


def test_a_claim_is_named_after_the_text_that_took_the_given_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "SHARED", tmp_path)
    assert texts.other_text() == " [Python sources]"
    assert list(texts.given_texts(texts.NOVELS)) == []
    (tmp_path / "text").mkdir()
    for name in (texts.NOVELS, texts.MULTILINGUAL):
        with gzip.open(tmp_path / "text" / name, "wt") as stream:
            stream.write('{"text": "some words"}\n')
    assert texts.other_text() == ""
    assert texts.other_text(repeated=True) == " [given text, repeated]"


def test_a_text_that_is_too_short_is_known_to_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_build, "given_texts", lambda name: iter(()))
    monkeypatch.setattr(corpus_build, "code_texts", lambda: iter(["x" * 600, "y" * 600]))
    for megabytes, repeated in ((0.001, False), (0.002, True)):
        path = tmp_path / f"{megabytes}.jsonl"
        corpus_build.write_text(path, megabytes)
        assert path.with_suffix(corpus_build.REPEATED).exists() == repeated
