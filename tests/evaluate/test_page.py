"""The commands of docs/evaluate.md run, one after the other."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from tests.evaluate.bias import test_suite as bias
from tests.evaluate.generative import synthetic
from tests.evaluate.glue import synthetic as glue
from tests.support.html import assert_sound

SAID = {
    "evaluate.harness": ("local_arc", "acc_norm"), "stdlib.build": ("right_continuation/test.jsonl",),
    "collect_local_text": ("code.jsonl",), "stdlib.overlap": ("0 of ",),
}  # fmt: skip
"""Part of a command -> what it prints."""
ARTIFACTS = Path(__file__).parent.parent / "artifacts"


@pytest.fixture
def place(make_folder, tmp_path, monkeypatch, root):
    """What the page says is there."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e .[eval-lm]")
    folder = tmp_path / "place"
    shutil.copytree(ARTIFACTS, folder)
    (folder / "run-mlm").rename(folder / "my_encoder")
    make_folder("clm").rename(folder / "my_decoder")
    bias.write(synthetic.write(folder / "my_data"))
    glue.write(folder / "my_data")
    (folder / "my_tasks").mkdir()
    (folder / "my_tasks" / "local_arc.yaml").write_text(
        f"include: {lm_eval.__path__[0]}/tasks/arc/arc_challenge.yaml\ntask: local_arc\ndataset_path: json\n"
        "dataset_name: null\ntraining_split: null\nvalidation_split: null\ndataset_kwargs:\n  data_files:\n"
        f"    test: {folder}/my_data/generative/arc_challenge/test.jsonl.gz\n"
    )
    (folder / "tools").symlink_to(root / "tools")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return folder


def test_the_commands_of_the_page_run(place, root, capsys):
    blocks = re.findall(r"```bash\n(.*?)```", (root / "docs" / "evaluate.md").read_text(), flags=re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines() if line]
    assert sum("retrieval" in command for command in commands) == 1, "run where its libraries are installed"
    commands = [command for command in commands if "retrieval" not in command]
    assert len(commands) == 11
    for command in commands:
        if command[0] == "ettin":
            assert main(command[1:]) == 0
            continue
        assert command[0] == "python"
        environment = os.environ | {"PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, *command[1:]], check=True, capture_output=True, text=True, timeout=300, env=environment
        )
        words = next(words for name, words in SAID.items() if name in " ".join(command))
        assert all(word in done.stdout for word in words), done.stdout
    assert_sound((place / "results" / "page.html").read_text())
    shown = capsys.readouterr().out
    suites = ("## bias", "## generative", "## glue", "## losses", "## stdlib")
    for words in (*suites, "| encoder | encoder |", "| my_decoder | decoder |"):
        assert words in shown
