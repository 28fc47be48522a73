"""One file, or what is needed of it, from its server to this disk: in parts, resumed by range, verified."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from megatron_ettin import _native
from megatron_ettin.errors import DataError, file_trouble
from megatron_ettin.publish import fsync_path
from megatron_ettin.sources.remote.address import RemoteFile
from megatron_ettin.sources.remote.retry import ShortAnswerError, retried
from megatron_ettin.sources.remote.store import (
    RangesError,
    described_again,
    etag_is_no_md5,
    filesystem,
    path_of,
    read_range,
)

PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
"""Parts of a file that are asked for side by side, since one connection fills no fast network."""
LINE_STEP = 64 << 10
"""Bytes asked for at a time behind a part of a file of lines, until its last line ends."""
VERIFICATIONS = 2
"""Times that a file is fetched until its bytes have the checksum that its server names."""

Range = tuple[int, int]
Copied = Callable[[int], None]


class Hash(Protocol):
    """What the checksums of servers have in common."""

    def update(self, content: bytes, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, content: bytes, /) -> None:
        self._value = _native.crc32c(content, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def hash_of(kind: str, size: int) -> Hash:
    """An empty hash of a kind that servers name: md5, sha256, crc32c, or that of git for a file of ``size`` bytes."""
    if kind == "crc32c":
        return _Crc32c()
    if kind == "git":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=False)


def transfer(
    remote: RemoteFile, target: Path, stop: threading.Event, copied: Copied, ranges: Sequence[Range] | None = None,
    *, whole_lines: bool = False,
) -> None:  # fmt: skip
    """Make ``target`` the file, or a file with holes that has the bytes of ``ranges`` where they stand in the whole.

    With ``whole_lines`` the last range goes on to the end of its last line. What an interrupted transfer left in
    ``TARGET.part`` is continued. ``copied`` is told the number of bytes that arrived. Raises DataError for a file that
    cannot be had, that changed meanwhile, or whose size or checksum is not what the server says; NotWantedError when
    ``stop`` is set.
    """
    part = target.with_name(f"{target.name}.part")
    wrong: str | None = ""
    for _ in range(VERIFICATIONS):
        try:
            if remote.ranges and _copy(remote, part, ranges or [(0, remote.size)], stop, copied):
                if whole_lines:
                    _finish_line(remote, part, stop, copied)
            else:
                _stream(remote, part, stop, copied)
            fsync_path(part)
        except OSError as error:
            raise DataError(f"{file_trouble(error)}; what was fetched of {remote.name} is kept") from error
        _require_unchanged(remote, part)
        wrong = _difference(remote, part) if ranges is None else None
        if wrong is None:
            os.replace(part, target)
            return
        part.unlink()
    raise DataError(f"{remote.name}: {wrong}, {VERIFICATIONS} times; the server or the way to it alters it")


def _copy(remote: RemoteFile, part: Path, ranges: Sequence[Range], stop: threading.Event, copied: Copied) -> bool:
    """Append what is missing of the ranges, which ascend, to the file; holes are left between them.

    Returns whether the server gives ranges.
    """
    with _opened(part) as stream, ThreadPoolExecutor(PARTS_AT_ONCE, "fetch") as pool:
        done = min(stream.seek(0, os.SEEK_END), ranges[-1][1] if ranges else 0)
        stream.truncate(done)
        wanted = _parts(ranges, done)
        asked: deque[tuple[int, Future[bytes]]] = deque()
        try:
            while True:
                while len(asked) < PARTS_AT_ONCE and (next_part := next(wanted, None)) is not None:
                    asked.append((next_part[0], pool.submit(read_range, remote, *next_part, stop)))
                if not asked:
                    return True
                begin, answer = asked.popleft()
                content = answer.result()
                if begin > stream.tell():  # a hole: what lies before it must be on the disk first
                    stream.flush()
                    os.fsync(stream.fileno())
                stream.seek(begin)
                stream.write(content)
                copied(len(content))
        except RangesError:
            return False
        finally:
            for _, answer in asked:
                answer.cancel()


def _opened(part: Path) -> BinaryIO:
    part.touch()
    return open(part, "r+b")


def _parts(ranges: Sequence[Range], done: int) -> Iterator[Range]:
    """The ranges behind byte ``done``, cut into parts of bounded size."""
    for first, end in ranges:
        for begin in range(max(first, done), end, PART_BYTES):
            yield begin, min(begin + PART_BYTES, end)


def _finish_line(remote: RemoteFile, part: Path, stop: threading.Event, copied: Copied) -> None:
    """Append the rest of the last line."""
    with _opened(part) as stream:
        end = stream.seek(0, os.SEEK_END)
        content = b""
        while end < remote.size and b"\n" not in content:
            content = read_range(remote, end, min(end + LINE_STEP, remote.size), stop)
            stream.write(content)
            copied(len(content))
            end += len(content)


def _stream(remote: RemoteFile, part: Path, stop: threading.Event, copied: Copied) -> None:
    """The whole file in one answer, from its first byte again after each interruption."""
    store: Any = filesystem(remote.address)

    def read() -> None:
        with open(part, "wb") as target, store.open(path_of(remote.address), "rb", block_size=0) as stream:
            while content := stream.read(PART_BYTES):
                target.write(content)
                copied(len(content))
                if stop.is_set():
                    break
            size = target.tell()
        if size != remote.size:
            raise ShortAnswerError(f"{size} of {remote.size} bytes, from a server that gives no parts of a file")

    retried(read, remote.address, stop)


def _require_unchanged(remote: RemoteFile, part: Path) -> None:
    """Raise DataError, and drop what was fetched, when the file is another than when it was found."""
    again = described_again(remote)
    if (again.size, again.etag) != (remote.size, remote.etag):
        part.unlink()
        raise DataError(
            f"{remote.name}: changed while it was fetched (size {remote.size} -> {again.size}, etag "
            f"{remote.etag or 'none'} -> {again.etag or 'none'}); once nothing writes to it, add --restart to build "
            "from it anew"
        )


def _difference(remote: RemoteFile, part: Path) -> str | None:
    """How the bytes differ from what the server says of them; None when they do not."""
    size = part.stat().st_size
    if size != remote.size:
        return f"{size} bytes came, and the server says {remote.size}"
    kind, _, expected = remote.checksum.partition(":")
    if not kind:
        return None
    found = hash_of(kind, size)
    with open(part, "rb", buffering=0) as stream:
        while content := stream.read(PART_BYTES):
            found.update(content)
    if found.hexdigest() == expected or (kind == "md5" and etag_is_no_md5(remote)):
        return None
    return f"its bytes have the {kind} {found.hexdigest()}, and the server says {expected}"
