"""All-or-nothing writing: a folder or a file appears whole under its final name, or not at all."""

from __future__ import annotations

import contextlib
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


def publish_files(staged: dict[Path, Path]) -> None:
    """Move staged files to their final names, in order: the last one is the mark that the set is whole."""
    for source in staged:
        fsync_path(source)
    for source, target in staged.items():
        os.replace(source, target)
        fsync_path(target.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace one small file by rename after fsync; readers see the old or the new content, never a mix."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_path(path)
    try:
        staging.write_bytes(content.encode() if isinstance(content, str) else content)
        publish_files({staging: path})
    finally:
        staging.unlink(missing_ok=True)
