"""The README is true: every command in it runs, here or in the test that the table below names."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import environment

SLURM = "sbatch --nodes 4 examples/pretrain_ettin.sh 150m mlm pretrain --run runs/150m-mlm --data mixture.json"
PROVEN_ELSEWHERE = {
    "bash examples/quickstart.sh": "tests/readme/test_quickstart.py",
    "bash examples/quickstart.sh --data my_text.jsonl --work my_work": "tests/readme/test_quickstart.py",
    "bash tests/run.sh": ".ci/run",
    SLURM: "tests/examples/test_slurm_script.py",
}
SHIMS = {
    "ettin": '{python} -m megatron_ettin "$@"',
    "torchrun": '{python} -m torch.distributed.run "$@"',
    "python": '{python} "$@"',
}
MEGABYTES = "0.5"
PAGES = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/adapt.md", "docs/architecture.md", "docs/clusters.md",
    "docs/corpora.md",
    "docs/evaluate.md", "docs/glossary.md", "docs/operations.md", "docs/plans.md", "docs/python.md",
    "docs/remote_text.md",
    "docs/vocabulary.md", "examples/own_data.md", "benchmarks/README.md",
    "benchmarks/results/README.md", "csrc/README.md",
)  # fmt: skip
"""What people read. The commands of README.md and examples/own_data.md run in tests."""
PAGES_WITH_COMMANDS = {
    "docs/adapt.md": "tests/adapt/test_page.py",
    "docs/clusters.md": "tests/docs/test_clusters.py",
    "docs/evaluate.md": "tests/evaluate/test_page.py",
    "docs/vocabulary.md": "tests/derive/test_page.py",
}
"""Pages of docs/ that hold commands, and the test that runs them."""


def readme_commands(root: Path) -> list[str]:
    """Every line of the README's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (root / "README.md").read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def write_text(root: Path, path: Path) -> None:
    """Some real documents: documentation of Python itself."""
    collected = path.parent / "collected"
    command = [sys.executable, root / "tools" / "collect_local_text.py", collected, "--megabytes", MEGABYTES]
    subprocess.run(command, check=True, capture_output=True)
    (collected / "prose.jsonl").rename(path)


def write_shims(folder: Path) -> None:
    """The commands of an installed environment, for this Python and this checkout."""
    folder.mkdir()
    for name, body in SHIMS.items():
        shim = folder / name
        shim.write_text("#!/bin/sh\nexec " + body.format(python=sys.executable) + "\n")
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(scope="module")
def workplace(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the README has it: the checkout's scripts and a text of their own."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("tools", "examples", "benchmarks"):
        (folder / name).symlink_to(root / name)
    write_text(root, folder / "my_text.jsonl")
    write_shims(folder / "bin")
    return folder


def test_commands_proven_elsewhere_are_still_in_the_readme(root: Path) -> None:
    assert set(PROVEN_ELSEWHERE) <= set(readme_commands(root))
    assert [proof for proof in PROVEN_ELSEWHERE.values() if not (root / proof).exists()] == []


def test_every_command_of_the_readme_runs(root: Path, workplace: Path) -> None:
    path = f"{workplace / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for command in readme_commands(root):
        if command in PROVEN_ELSEWHERE:
            continue
        result = subprocess.run(
            command, shell=True, cwd=workplace, env=environment({"PATH": path}),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-5000:]}"


def test_every_verb_is_in_the_readme(root: Path) -> None:
    from megatron_ettin.cli import VERBS

    text = (root / "README.md").read_text()
    assert [verb for verb in VERBS if f"`ettin {verb}" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(root: Path, page: str) -> None:
    text = (root / page).read_text()
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    named = re.findall(r"`((?:megatron_ettin|csrc|examples|tools|benchmarks|tests)/[\w./]+)`", text)
    missing = [name for name in named if "NAME" not in name and not (root / name).exists()]
    assert [*missing, *(name for name in linked if not (root / page).parent.joinpath(name).exists())] == []


def test_commands_stand_in_pages_that_a_test_runs(root: Path) -> None:
    pages = {path.relative_to(root).as_posix() for path in (root / "docs").glob("*.md")}
    assert pages < set(PAGES)
    assert {page for page in pages if "```bash" in (root / page).read_text()} == set(PAGES_WITH_COMMANDS)
    assert [proof for proof in PAGES_WITH_COMMANDS.values() if not (root / proof).exists()] == []
