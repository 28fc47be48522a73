"""Where a compressed file can be cut, so that its parts are decompressed side by side."""

from __future__ import annotations

import os
import re

from megatron_ettin.sources.zstd_frames import (
    BLOCK_BYTES,
    SKIPPABLE_BYTES,
    START_BYTES,
    FrameStart,
    block_bytes,
    skippable_bytes,
)

PART_BYTES = 4 << 20
"""Smallest part, in compressed bytes."""
SEARCH_BYTES = 64 << 20
"""A file in which no cut is found for this many bytes is one part from there on."""
STEP = 1 << 20

GZIP_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]....[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
"""RFC 1952: magic, deflate, flags, time, level, system. Compressed data holds such bytes once in 200 GB."""
GZIP_HEADER_BYTES = 10


def next_cut(descriptor: int, compression: str | None, begin: int, size: int) -> int:
    """Where the part that starts at ``begin`` ends: the start of another member or frame, or ``size``.

    For gzip it is a place that looks like one: who reads the part finds out.
    """
    if compression == "gz":
        return _gzip_cut(descriptor, begin, size)
    if compression == "zst":
        return _zstd_cut(descriptor, begin, size)
    return size


def _gzip_cut(descriptor: int, begin: int, size: int) -> int:
    overlap = GZIP_HEADER_BYTES - 1
    for at in range(begin + PART_BYTES, min(begin + PART_BYTES + SEARCH_BYTES, size), STEP):
        found = GZIP_HEADER.search(os.pread(descriptor, STEP + overlap, at))
        if found:
            return at + found.start()
    return size


def _zstd_cut(descriptor: int, begin: int, size: int) -> int:
    at = begin
    while at < min(begin + PART_BYTES, size):
        end = _zstd_frame_end(descriptor, at, min(size, begin + PART_BYTES + SEARCH_BYTES))
        if end is None:
            return size
        at = end
    return min(at, size)


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
