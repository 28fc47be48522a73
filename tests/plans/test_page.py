"""The commands of docs/plans.md: what they ask for exists, and those that need no training run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from megatron_ettin.commands.plan_flags import parse_plan
from megatron_ettin.commands.pretrain import PretrainFlags
from tests.rows.conftest import write_mixture
from tests.train.runs import write_toy

TRAIN = "-m megatron_ettin pretrain "


def commands(root: Path) -> list[str]:
    """Each line of a block, and each command within a sentence."""
    text = (root / "docs" / "plans.md").read_text()
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`(ettin (?:check|estimate|study) [^`]+)`", text)
    return [line for block in blocks for line in block.splitlines()] + [line.replace("\n", " ") for line in inline]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page names."""
    corpus = write_toy(tmp_path)
    for name in ("pool", "decay"):
        write_mixture(tmp_path / f"{name}.json", [{"name": "toy", "prefix": corpus.name, "passes": 1}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_run(root: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(root)
    assert len(found) == 4
    for command in found:
        if TRAIN in command:
            planned, _ = parse_plan(shlex.split(command.partition(TRAIN)[2]), PretrainFlags, "pretrain")
            assert [stage.config.data.data for stage in planned.stages] == ["pool.json", "pool.json", "decay.json"]
            assert planned.folder == Path("runs/150m")
            continue
        arguments = shlex.split(command)[1:]
        assert main([*arguments, *(["--dry-run"] if arguments[0] == "study" else [])]) == 0, capsys.readouterr()
    assert sorted(path.name for path in workplace.iterdir() if path.is_dir()) == []
