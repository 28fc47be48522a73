"""Of what comes from elsewhere only files are read: a pipe would be waited for and a device read without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from megatron_ettin.errors import CheckpointError

KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
"""What a name may lead to that is neither a file nor a folder."""


def special_kind(path: Path) -> str | None:
    """What ``path`` leads to where that is no file and no folder; None also where nothing is there."""
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except FileNotFoundError:
        return None


def read_regular(path: Path) -> bytes:
    """The content of a file. Raises OSError also for a pipe, a socket or a device, without waiting for it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if kind := KINDS.get(stat.S_IFMT(os.fstat(file.fileno()).st_mode)):
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
        return file.read()


def refuse_special_files(folder: Path) -> None:
    """Raise CheckpointError when anything in the folder of a model is neither file nor folder; a missing one passes."""
    try:
        kinds = {path: special_kind(path) for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}; give a folder that you may read") from error
    for path, kind in kinds.items():
        if kind:
            raise CheckpointError(f"{path} is {kind}; only files are read: put the file itself there, or remove it")
