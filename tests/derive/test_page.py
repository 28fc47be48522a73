"""The commands of docs/vocabulary.md run, one after the other, in a folder that has what they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from tests.support.tokenizers import write_texts


def test_the_commands_of_the_page_run(
    make_folder: Callable[..., Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("my_extension", "my_decay_a", "my_decay_b", "my_decay_c")):
        make_folder("mlm", name, seed=seed)
    make_folder("clm", "my_model")
    write_texts(tmp_path / "my_text.jsonl")
    (tmp_path / "my_tokens.txt").write_text("myocardial\n infarction\n")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", (root / "docs" / "vocabulary.md").read_text(), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "ettin"
        assert main(arguments) == 0, command
