"""What is found out about the machine, also where the system says less than Linux does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from megatron_ettin import machine
from megatron_ettin.machine import cores


def test_cores_are_those_the_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert cores() == 3


def test_cores_are_all_of_the_machine_where_the_system_binds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores() == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.parametrize("kernel", ["copies", "refuses", "is another system's"])
def test_bytes_are_copied_with_and_without_the_kernel(kernel: str, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EXDEV, "another file system")

    if kernel == "refuses":
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    elif kernel == "is another system's":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    monkeypatch.setattr(machine, "PLAIN_COPY_BYTES", 1000)
    content = os.urandom(10_000)
    (tmp_path / "source").write_bytes(content)
    with open(tmp_path / "source", "rb", buffering=0) as source, open(tmp_path / "target", "wb", buffering=0) as target:
        target.write(b"before")
        left = len(content) + 5
        while copied := machine.copy_between(source.fileno(), target.fileno(), left):
            left -= copied
    assert left == 5
    assert (tmp_path / "target").read_bytes() == b"before" + content


def test_a_copy_that_fails_for_another_reason_is_told(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "copy_file_range", fail, raising=False)
    with open(tmp_path / "a", "wb") as a, open(tmp_path / "b", "wb") as b, pytest.raises(OSError, match="no space"):
        machine.copy_between(a.fileno(), b.fileno(), 1)
