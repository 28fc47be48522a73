"""What is made appears whole under its final name, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.publish import finish_set, publish, publish_file, publish_set, write_atomically


def test_a_folder_appears_whole_and_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), publish(tmp_path / "a") as staging:
        (staging / "x").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with publish(tmp_path / "a") as staging:
        (staging / "x").write_text("whole")
    assert (tmp_path / "a/x").read_text() == "whole" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(ConfigError, match="never overwritten"), publish(tmp_path / "a"):
        pass


def test_a_file_is_old_or_new_never_a_mix(tmp_path: Path) -> None:
    path = tmp_path / "folder/file"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), publish_file(path) as staging:
        staging.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file"]
    with publish_file(path) as staging:
        staging.write_text("new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("moved", range(4))
def test_a_set_that_was_begun_is_finished_after_a_kill(tmp_path: Path, moved: int, monkeypatch) -> None:
    """``moved`` renames happen before the process dies; the old mark is gone as soon as the first file has moved."""
    files = {tmp_path / f"staged-{name}": tmp_path / name for name in ("tokens", "index")}
    marks = {tmp_path / "staged-manifest": tmp_path / "manifest"}
    for staged, final in (files | marks).items():
        staged.write_text("new")
        final.write_text("old")
    replace, left = os.replace, [moved + 1]  # one more is that of the intent

    def dying(source: Path, target: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    intent = tmp_path / "intent"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        try:
            publish_set(files, marks, intent)
        except KeyboardInterrupt:
            assert not (tmp_path / "manifest").exists()
    assert finish_set(intent)
    assert {name: (tmp_path / name).read_text() for name in ("tokens", "index", "manifest")} == dict.fromkeys(
        ("tokens", "index", "manifest"), "new"
    )


def test_without_a_begun_set_there_is_nothing_to_finish(tmp_path: Path) -> None:
    assert not finish_set(tmp_path / "intent")
