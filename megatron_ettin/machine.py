"""What this process may use of its machine, with a way around what only Linux has."""

from __future__ import annotations

import errno
import os

KERNEL_COPY_BYTES = 256 << 20
PLAIN_COPY_BYTES = 8 << 20
NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY)
"""The errors by which a kernel says that it cannot copy between these two files."""


def cores() -> int:
    """Cores this process may use: those it is bound to, or all where the system binds none (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def copy_between(source: int, target: int, size: int) -> int:
    """Copy at most ``size`` bytes between open files, from where they stand; returns how many, 0 at the end.

    The kernel copies, or the file system shares the blocks, where both can.
    """
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, min(size, KERNEL_COPY_BYTES))
        except OSError as error:
            if error.errno not in NO_KERNEL_COPY:
                raise
    content = memoryview(os.read(source, min(size, PLAIN_COPY_BYTES)))
    copied = 0
    while copied < len(content):
        copied += os.write(target, content[copied:])
    return copied
