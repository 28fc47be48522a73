"""A changed header, however deep it lies, asks for a new build: by the environment's fingerprint and by setup.py."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import setuptools

FILES = {
    "csrc/base/deep.h": "#pragma once\n",
    "csrc/tokenizer/generic/body.h": "",
    "csrc/tokenizer/user.h": '#include "base/deep.h"\n',
    "csrc/tokenizer/user.cpp": '#include "tokenizer/user.h"\n#include "tokenizer/generic/body.h"\n',
    "csrc/rows/other.cpp": "#include <vector>\n",
    "csrc/fuzz/target.cpp": '#include "tokenizer/user.h"\n',
}


@pytest.fixture()
def tree(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with two compiled sources."""
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "tools/environment.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for file in tmp_path.rglob("*"):
        os.utime(file, (1000, 1000))
    for name in ("user.o", "other.o"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (2000, 2000))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rule(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[str, str], bool], setuptools.Extension]:
    """What setup.py decides by, and the extension that it declares."""
    declared: list[setuptools.Extension] = []
    monkeypatch.setattr(setuptools, "setup", lambda *, ext_modules, **_: declared.extend(ext_modules))
    return runpy.run_path("setup.py")["needs_recompile"], declared[0]


def fingerprint(tree: Path) -> str:
    command = ["bash", "-c", "source tools/environment.sh; ettin_fingerprint here"]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("header", ["csrc/base/deep.h", "csrc/tokenizer/generic/body.h"])
def test_a_nested_header_asks_for_a_rebuild(tree: Path, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, extension = rule(monkeypatch)
    assert sorted(extension.sources) == ["csrc/rows/other.cpp", "csrc/tokenizer/user.cpp"]
    assert header in extension.depends
    assert not stale("user.o", "csrc/tokenizer/user.cpp")
    assert stale("missing.o", "csrc/tokenizer/user.cpp")
    before = fingerprint(tree)

    (tree / header).write_text("#pragma once\nconstexpr int changed = 1;\n")

    stale, _ = rule(monkeypatch)
    assert stale("user.o", "csrc/tokenizer/user.cpp")
    assert not stale("other.o", "csrc/rows/other.cpp")
    assert fingerprint(tree) != before


def test_a_moved_header_changes_the_fingerprint(tree: Path) -> None:
    before = fingerprint(tree)
    (tree / "csrc/base/deep.h").rename(tree / "csrc/rows/deep.h")
    assert fingerprint(tree) != before


def test_without_a_gpu_only_cpu_builds_of_torch_are_asked_for(tree: Path) -> None:
    """pip fails each time here, so that every attempt is seen."""
    tools = tree / "tools-here"
    tools.mkdir()
    (tools / "python").write_text('#!/bin/sh\necho "$@" >>calls\nexit 1\n')
    (tools / "python").chmod(0o755)
    for name in ("bash", "sed", "uname", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    command = ["bash", "-c", "source tools/environment.sh; ettin_install_torch"]
    environment = {"PATH": str(tools), "ETTIN_PYTHON": str(tools / "python")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no CPU build of torch" in done.stderr
    attempts = [line for line in (tree / "calls").read_text().splitlines() if "pip install" in line]
    assert len(attempts) == 2
    assert all("+cpu" in attempt for attempt in attempts)
    assert "pypi.org" not in "".join(attempts)
