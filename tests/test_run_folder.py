"""The names in a run folder stand in one file, and a folder is known for what it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import megatron_ettin
from megatron_ettin import run_folder
from megatron_ettin.cli import main
from megatron_ettin.config.codec import to_json
from megatron_ettin.config.recipes import recipe
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.run_folder import is_run, parse_source, path_of, read_config

PACKAGE = Path(megatron_ettin.__file__).parent
NAMES = (
    "config.json", "environment.json", "command.txt", "metrics.jsonl", "console.log", "data.json", "checkpoints",
    "LATEST", "state.json", "manifest.json",
)  # fmt: skip
WORDS = ("order", "shards", "tensorboard")
"""Names that are plain words too: only a path built of one counts."""
HUGGING_FACE = ("export/", "check/run.py", "evaluate/", "adapt/")
"""Where config.json is that of a Hugging Face folder."""
SAVED_DATASETS = ("sources/",)
"""Where state.json is that of a dataset that `datasets` saved."""


def names_in(path: Path) -> list[str]:
    """What a file says about the names in a run folder, docstrings apart."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = {id(node.right) for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            text = node.value
            parts = text.split("/")
            named = any(name in parts for name in NAMES) or text.startswith("step-") and not text.startswith("step-N")
            if named or (id(node) in joined and text in WORDS):
                found.append(text)
    return found


def test_the_names_in_a_run_folder_stand_in_one_file():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix()
        if relative == "run_folder.py":
            continue
        found = [name for name in names_in(path) if not (name == "config.json" and relative.startswith(HUGGING_FACE))]
        found = [name for name in found if not (name == "state.json" and relative.startswith(SAVED_DATASETS))]
        assert not found, f"{relative} spells out {found}; take the names from run_folder.py"


def test_the_contract_of_a_run_folder_needs_no_heavy_package():
    heavy = "sorted({'torch', 'numpy', 'megatron', 'transformers', 'tyro'} & set(sys.modules))"
    code = f"import sys, megatron_ettin.run_folder; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(recipe("tiny", "mlm", "pretrain")))
    (folder / "metrics.jsonl").touch()
    (folder / "checkpoints").mkdir()
    return folder


@pytest.mark.parametrize("kept", ["config.json", "metrics.jsonl", "checkpoints"])
def test_a_run_is_known_by_any_of_its_parts(tmp_path, kept):
    run = make_run(tmp_path / "run")
    for part in run.iterdir():
        if part.name != kept:
            part.rename(tmp_path / part.name)
    assert is_run(run)
    assert not is_run(tmp_path / "nothing")


def test_a_hugging_face_folder_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "modernbert", "ettin_objective": "mlm"}')
    assert not is_run(tmp_path)


def test_a_run_without_its_checkpoints_is_not_taken_for_a_hugging_face_folder(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "checkpoints").rmdir()
    assert main(["convert", str(run), str(tmp_path / "out")]) == 2
    assert "its checkpoints/ is not there any more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_just_the_name_given_is_no_step(tmp_path):
    assert parse_source(str(tmp_path / "run@5")) == (tmp_path / "run", 5)
    run = make_run(tmp_path / "run@5")
    assert parse_source(str(run)) == (run, None)
    assert parse_source(f"{run}@7") == (run, 7)
    with pytest.raises(CheckpointError, match="after @ comes a step number"):
        parse_source("run@last")


def test_settings_that_cannot_be_read_are_named_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'config.json'}: no such file; give the folder")):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="does not hold the settings of a run"):
        read_config(tmp_path)
    assert path_of(tmp_path, 7) == tmp_path / "checkpoints" / "step-00000007"
    assert run_folder.latest_of(tmp_path) == tmp_path / "checkpoints" / "LATEST"
