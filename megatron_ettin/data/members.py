"""Where a compressed file can be cut, so that its parts are decompressed side by side."""

from __future__ import annotations

import os
import re

PART_BYTES = 4 << 20
"""Smallest part, in compressed bytes."""
SEARCH_BYTES = 64 << 20
"""A file in which no cut is found for this many bytes is one part from there on."""
STEP = 1 << 20

GZIP_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]....[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
"""RFC 1952: magic, deflate, flags, time, level, system. Compressed data holds such bytes once in 200 GB."""
GZIP_HEADER_BYTES = 10
ZSTD_MAGIC = 0xFD2FB528
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
ZSTD_HEADER_BYTES = 18
RAW, RLE, COMPRESSED = 0, 1, 2


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
    """RFC 8878: the end of the frame at ``begin``, found from the sizes of its blocks; None where there is none."""
    header = os.pread(descriptor, ZSTD_HEADER_BYTES, begin)
    if len(header) < 8:
        return None
    magic = int.from_bytes(header[:4], "little")
    if magic in ZSTD_SKIPPABLE:
        return begin + 8 + int.from_bytes(header[4:8], "little")
    if magic != ZSTD_MAGIC:
        return None
    descriptor_byte = header[4]
    single, checksum = descriptor_byte >> 5 & 1, descriptor_byte >> 2 & 1
    content_size = (single, 2, 4, 8)[descriptor_byte >> 6]
    at = begin + 5 + (1 - single) + (0, 1, 2, 4)[descriptor_byte & 3] + content_size
    while at < limit:
        block = os.pread(descriptor, 3, at)
        if len(block) < 3:
            return None
        value = int.from_bytes(block, "little")
        last, kind, length = value & 1, value >> 1 & 3, value >> 3
        if kind > COMPRESSED:
            return None
        at += 3 + (1 if kind == RLE else length)
        if last:
            return at + 4 * checksum
    return None
