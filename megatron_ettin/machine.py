"""What this process may use of its machine, with a way around what only Linux has."""

from __future__ import annotations

import errno
import os
import resource

from megatron_ettin.errors import DataError

KERNEL_COPY_BYTES = 256 << 20
PLAIN_COPY_BYTES = 8 << 20
NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY)
"""The errors by which a kernel says that it cannot copy between these two files."""

SPARE_FILES = 256
"""Files that a process opens beside its data: logs, sockets, libraries, checkpoints."""


def allow_open_files(count: int, why: str) -> None:
    """Let this process open ``count`` more files, by raising its own limit as far as the system lets it.

    Raises DataError, which begins with ``why``, when that is not far enough.
    """
    opened = len(os.listdir("/dev/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = opened + count + SPARE_FILES
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise DataError(
            f"{why}, {count} files, which stay open, but this process may open {hard}: raise that "
            f"(`ulimit -Hn {wanted}`, or LimitNOFILE of the service that starts it), or make one pair of files by "
            "`ettin corpus merge`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
