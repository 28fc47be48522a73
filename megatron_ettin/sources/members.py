"""Where a compressed file can be cut, so that its parts are decompressed side by side.

gzip members are looked for by what starts them. The frames of a zstd stream (RFC 8878) are found from the sizes of
their blocks. Nothing is decompressed for it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

PART_BYTES = 4 << 20
"""Smallest part, in compressed bytes."""
SEARCH_BYTES = 64 << 20
"""A file in which no cut is found for this many bytes is one part from there on."""
STEP = 1 << 20

GZIP_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]....[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
"""RFC 1952: magic, deflate, flags, time, level, system. Compressed data holds such bytes once in 200 GB."""
GZIP_HEADER_BYTES = 10
ZSTD_MAGIC = 0xFD2FB528
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
START_BYTES = 5
"""Magic and descriptor of a frame."""
SKIPPABLE_BYTES = 8
"""Magic and size of a skippable frame."""
BLOCK_BYTES = 3
RLE, COMPRESSED = 1, 2


def next_cut(descriptor: int, compression: str | None, begin: int, size: int) -> int:
    """Where the part that starts at ``begin`` ends: the start of another member or frame, or ``size``.

    For gzip it is a place that looks like one: who reads the part finds out.
    """
    searched = min(begin + PART_BYTES + SEARCH_BYTES, size)
    if compression == "gz":
        for at in range(begin + PART_BYTES, searched, STEP):
            found = GZIP_HEADER.search(os.pread(descriptor, STEP + GZIP_HEADER_BYTES - 1, at))
            if found:
                return at + found.start()
    elif compression == "zst":
        end: int | None = begin
        while end is not None and end < min(begin + PART_BYTES, size):
            end = _zstd_frame_end(descriptor, end, searched)
        return size if end is None else min(end, size)
    return size


def next_gzip_header(descriptor: int, offset: int, size: int) -> int:
    """The first place from ``offset`` on that looks like the start of a gzip member; ``size`` when there is none."""
    for at in range(offset, size, STEP):
        if found := GZIP_HEADER.search(os.pread(descriptor, STEP + GZIP_HEADER_BYTES - 1, at)):
            return at + found.start()
    return size


def next_frame(descriptor: int, offset: int, size: int) -> int:
    """The first start of a zstd frame from ``offset`` on, found by walking from the start; ``size`` for none."""
    end: int | None = 0
    while end is not None and end < min(offset, size):
        end = _zstd_frame_end(descriptor, end, size)
    return size if end is None else min(end, size)


def _zstd_frame_end(descriptor: int, begin: int, limit: int) -> int | None:
    """The end of the frame at ``begin``, found from the sizes of its blocks; None where there is none."""
    header = os.pread(descriptor, SKIPPABLE_BYTES, begin)
    if (size := skippable_bytes(header)) is not None:
        return begin + size
    frame = FrameStart.of(header[:START_BYTES])
    if frame is None:
        return None
    at = begin + START_BYTES + frame.rest
    while at < limit:
        block = block_bytes(os.pread(descriptor, BLOCK_BYTES, at))
        if block is None:
            return None
        size, last = block
        at += BLOCK_BYTES + size
        if last:
            return at + frame.checksum
    return None


@dataclass(frozen=True)
class FrameStart:
    """What the first five bytes of a frame tell."""

    rest: int
    """Bytes of the header that follow."""
    checksum: int
    """Bytes behind the last block."""

    @classmethod
    def of(cls, start: bytes) -> FrameStart | None:
        """From its bytes; None when no frame starts so."""
        if len(start) < START_BYTES or int.from_bytes(start[:4], "little") != ZSTD_MAGIC:
            return None
        descriptor = start[4]
        single = descriptor >> 5 & 1
        rest = (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
        return cls(rest=rest, checksum=4 * (descriptor >> 2 & 1))


def skippable_bytes(start: bytes) -> int | None:
    """Bytes of a whole skippable frame from its first eight; None when it is none."""
    if len(start) < SKIPPABLE_BYTES or int.from_bytes(start[:4], "little") not in SKIPPABLE:
        return None
    return SKIPPABLE_BYTES + int.from_bytes(start[4:8], "little")


def block_bytes(header: bytes) -> tuple[int, bool] | None:
    """(bytes that follow the header of a block, whether it is the last); None when it is no header."""
    value = int.from_bytes(header, "little")
    if len(header) < BLOCK_BYTES or value >> 1 & 3 > COMPRESSED:
        return None
    return 1 if value >> 1 & 3 == RLE else value >> 3, bool(value & 1)


class FrameFollower:
    """Told the bytes of a stream in order, knows whether they end inside a frame."""

    def __init__(self) -> None:
        self._head = b""
        self._wanted = START_BYTES
        self._skip = 0
        self._frame: FrameStart | None = None

    @property
    def whole(self) -> bool:
        """Whether every frame so far is at its end."""
        return self._frame is None and not self._head and not self._skip

    def follow(self, content: bytes) -> None:
        """The next bytes."""
        at = 0
        while at < len(content):
            if self._skip:
                taken = min(self._skip, len(content) - at)
                self._skip -= taken
            else:
                taken = min(self._wanted - len(self._head), len(content) - at)
                self._head += content[at : at + taken]
                if len(self._head) == self._wanted:
                    self._take()
            at += taken

    def _take(self) -> None:
        """Use the bytes in ``_head``, a header; a damaged one is found by who decompresses."""
        head, self._head = self._head, b""
        if self._frame is not None:
            content, last = block_bytes(head) or (0, True)
            self._skip = content + (self._frame.checksum if last else 0)
            if last:
                self._frame, self._wanted = None, START_BYTES
        elif (frame := FrameStart.of(head)) is not None:
            self._frame, self._wanted, self._skip = frame, BLOCK_BYTES, frame.rest
        elif (whole := skippable_bytes(head)) is not None:
            self._wanted, self._skip = START_BYTES, whole - SKIPPABLE_BYTES
        elif int.from_bytes(head[:4], "little") in SKIPPABLE:
            self._head, self._wanted = head, SKIPPABLE_BYTES
