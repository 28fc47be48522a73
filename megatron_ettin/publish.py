"""All-or-nothing writing: what is made appears whole under its final name, or not at all.

A folder by ``publish``, one large file by ``publish_file``, files that belong together by ``publish_set``, a small file
by ``write_atomically``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from megatron_ettin.errors import ConfigError


def fsync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``, then the folder itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_path(Path(parent, name))
        fsync_path(Path(parent))


def staging_path(target: Path) -> Path:
    """A hidden sibling of ``target``, on the same file system, so that a rename is atomic."""
    return target.parent / f".{target.name}.incomplete-{os.urandom(4).hex()}"


def remove_staged(folder: Path, *names: str) -> None:
    """Delete what interrupted writings of files left in a folder; names as glob takes them. For their one writer."""
    for name in names:
        for path in folder.glob(f".{name}.incomplete-" + 8 * "[0-9a-f]"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def publish(folder: Path) -> Iterator[Path]:
    """Yield an empty staging folder; on a clean exit it becomes ``folder`` by one rename after fsync.

    Raises ConfigError when ``folder`` is there already. After an error the staging folder is removed.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists already and is never overwritten; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_path(folder)
    staging.mkdir()
    try:
        yield staging
        fsync_tree(staging)
        os.rename(staging, folder)
    except BaseException:
        import shutil  # only here: it takes a millisecond to import

        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync_path(folder.parent)


@contextlib.contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write; on a clean exit it becomes ``path``, old or new and never a mix, after fsync.

    For a file too large for ``write_atomically``. After an error what was written is removed.
    """
    staging = staging_path(path)
    try:
        yield staging
        _move({staging: path})
    finally:
        staging.unlink(missing_ok=True)


def publish_set(files: dict[Path, Path], marks: dict[Path, Path], intent: Path) -> None:
    """Move staged files to their final names: ``files`` in order, then ``marks``, whose presence says the set is whole.

    Marks of an older set are taken away first. A process that is killed meanwhile leaves the file ``intent``, by which
    ``finish_set`` goes on.
    """
    for source in (*files, *marks):
        fsync_path(source)
    moves = [[str(source), str(target), source in marks] for source, target in (files | marks).items()]
    write_atomically(intent, json.dumps(moves))
    finish_set(intent)


def finish_set(intent: Path) -> bool:
    """Do what is left of a ``publish_set`` that was begun; returns whether there was one. ``intent`` stays."""
    if not intent.exists():
        return False
    moves = [(Path(source), Path(target), mark) for source, target, *mark in json.loads(intent.read_bytes())]
    left = {source: target for source, target, _ in moves if source.exists()}
    for source, target, mark in moves:
        if source in left and mark == [True]:
            target.unlink(missing_ok=True)
    _move(left)
    return True


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace one small file by rename after fsync; readers see the old or the new content, never a mix."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with publish_file(path) as staging:
        staging.write_bytes(content.encode() if isinstance(content, str) else content)


def _move(staged: dict[Path, Path]) -> None:
    """Flush files and move them to their final names, in order."""
    for source in staged:
        fsync_path(source)
    for source, target in staged.items():
        os.replace(source, target)
        fsync_path(target.parent)
