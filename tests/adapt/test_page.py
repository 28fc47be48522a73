"""The lines of docs/adapt.md run, with a stand-in for the hub and a short run in place of a long one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from tests.adapt.stand_in_hub import Hub, serving
from tests.adapt.starts import SHAPES, write_start, write_text
from tests.adapt.test_adapt import FLAGS, SHORT
from tests.support.launch import run
from tests.support.warm import warm


def blocks(root: Path, language: str) -> list[str]:
    text = (root / "docs" / "adapt.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder after the command of the page."""
    folder = tmp_path_factory.mktemp("page")
    write_text(folder / "my_text.jsonl", 200)
    start = write_start(folder / "stand-in", SHAPES["ModernBERT-base"], **SHORT)
    (command,) = [line for block in blocks(root, "bash") for line in block.splitlines()]
    program, *arguments = shlex.split(command)
    assert program == "ettin"
    models = {"answerdotai/ModernBERT-base": {"main": start}}
    with serving(Hub(models=models)) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.address)
        patch.setenv("HF_HUB_CACHE", str(folder / "cache"))
        said = warm(0, "megatron_ettin", *arguments, *FLAGS, cwd=folder).stdout
    (folder / "said").write_text(said)
    return folder


def test_the_command_of_the_page_makes_a_model(place):
    said = (place / "said").read_text()
    assert "warning: answerdotai/ModernBERT-base has been trained to the end of its schedule" in said
    assert "its logits equal those of transformers" in said
    card = (place / "my_run" / "export" / "README.md").read_text()
    assert re.search(r"\| started from \| answerdotai/ModernBERT-base \([0-9a-f]{40}\) \|", card)
    assert "# ModernBERT-base, trained further" in card


def test_the_same_command_goes_on_without_the_hub(root, place, monkeypatch, capsys):
    """A run stays with the commit that it began from, whatever the revision names later."""
    (command,) = [line for block in blocks(root, "bash") for line in block.splitlines()]
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main([*shlex.split(command)[1:], *FLAGS]) == 0
    assert "exported already" in capsys.readouterr().out


@pytest.mark.slow
def test_the_python_of_the_page_gives_vectors(root, place):
    """In the environment of ETTIN_EMBED_PYTHON, or this one, where sentence-transformers is installed."""
    python = os.environ.get("ETTIN_EMBED_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import sentence_transformers"], capture_output=True, check=False).returncode:
        pytest.skip("no sentence-transformers; ETTIN_EMBED_PYTHON names a Python that has it")
    (lines,) = blocks(root, "python")
    shape = run([python, "-c", lines + "print(vectors.shape)"], cwd=place).stdout
    assert shape.strip() == "(2, 48)"
