"""The extension and the data side build and pass on the other Python versions that are supported, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("setuptools>=77", "pybind11>=3.0", "numpy", "tokenizers", "pyarrow", "zstandard", "isal", "pytest")
TESTS = (
    "tests/corpus/test_bad_records.py", "tests/corpus/test_fuzz.py", "tests/corpus/test_journal.py",
    "tests/corpus/test_text_hashes.py", "tests/test_machine.py", "tests/test_publish.py", "tests/test_typed_json.py",
)  # fmt: skip
INSTALLING, BUILDING = 600, 1800
"""Seconds; the build takes minutes of one core."""


def find_python(version: str) -> Path:
    """An interpreter on the path, or one that pyenv has installed; skips the test where there is none."""
    found = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for candidate in filter(None, found):
        if subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:  # no dead shim
            return Path(candidate)
    pytest.skip(f"no Python {version} on this machine")


@pytest.mark.slow
@pytest.mark.timeout(INSTALLING + 2 * BUILDING)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_data_side_works_without_torch_on(version: str, root: Path, tmp_path: Path) -> None:
    subprocess.run([find_python(version), "-m", "venv", tmp_path / "venv"], check=True)
    python, copy = tmp_path / "venv/bin/python", tmp_path / "checkout"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True, timeout=INSTALLING
    )
    if installed.returncode:
        pytest.skip(f"pip cannot install for Python {version}: {installed.stderr[-300:]}")
    unwanted = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("megatron_ettin", "csrc", "tests"):
        shutil.copytree(root / name, copy / name, ignore=unwanted)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(root / name, copy)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (["setup.py", "--quiet", "build_ext", "--inplace"], ["-m", "pytest", *TESTS]):
        done = subprocess.run(
            [python, *command], cwd=copy, env=clean, capture_output=True, text=True, timeout=BUILDING
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
