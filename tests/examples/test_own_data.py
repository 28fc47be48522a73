"""The guide to one's own text is true: its commands run in their order, on a small shape and a small text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme.test_readme import write_shims, write_text
from tests.support.launch import environment

SHAPE = """
like = "tiny"
[model]
layers = 3
hidden = 64
intermediate = 96
heads = 2
maximum_length = 512
[recipe]
rate_warmup_tokens = 2_000
batch_warmup_tokens = 0
cross_warmup_tokens = 2_000
cross_fall_tokens = 2_000
pretrain_rows = 8
decay_rows = 2
"""
SMALLER = {" 17m ": " small.toml ", "100M": "12K", "50M": "12K", "32768": "600"}
"""What makes the guide's commands short; everything else is run as it stands."""
PUBLISHED = "hub/ettin-encoder-17m"
"""The guide downloads this folder; here it is an export of the encoder that the guide has trained before."""
FIRST_STAGE = " --model.rope-base-global 10000 --model.rope-base-local 10000"
"""That encoder has the rotary bases of the first stage; the guide names the flags for such a model."""


def blocks(root: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    text = (root / "examples" / "own_data.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(root: Path) -> list[str]:
    """One command each, continued lines joined, made small."""
    joined = "\n".join(blocks(root, "bash")).replace("\\\n", " ")
    for written, smaller in SMALLER.items():
        assert written in joined, written
        joined = joined.replace(written, smaller)
    return [line for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a shape, and the commands of an installed environment."""
    folder = tmp_path_factory.mktemp("own_data")
    write_text(root, folder / "my_text.jsonl")
    write_shims(folder / "bin")
    (folder / "small.toml").write_text(SHAPE)
    return folder


def shell(command: str, workplace: Path) -> None:
    path = f"{workplace / 'bin'}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, shell=True, cwd=workplace, env=environment({"PATH": path}),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-5000:]}"


def test_every_command_of_the_guide_runs_in_its_order(root: Path, workplace: Path) -> None:
    for command in commands(root):
        if PUBLISHED in command:
            shell(f"ettin convert work/encoder {PUBLISHED}", workplace)
            command += FIRST_STAGE
        shell(command, workplace)
    assert (workplace / "work/encoder-huggingface/model.safetensors").exists()


def test_predictions_are_read_as_the_guide_reads_them(root: Path, workplace: Path) -> None:
    if not (workplace / PUBLISHED).exists():
        pytest.skip("the commands of the guide did not run")
    (snippet,) = blocks(root, "python")
    code = f"folder = {str(workplace / PUBLISHED)!r}\n{snippet}"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, env=environment({}), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.startswith("['")
