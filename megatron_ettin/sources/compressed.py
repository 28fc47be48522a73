"""Decompression in pieces of bounded size, with the checksum of the compressed file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_ettin import _native
from megatron_ettin.errors import DataError
from megatron_ettin.sources.members import FrameFollower

READ_BYTES = 256 << 10
PIECE_BYTES = 512 << 10
"""Upper bound of one decompressed piece."""
MAXIMUM_WINDOW = 128 << 20
WINDOW_ERROR = "too much memory"
"""What libzstd says of a frame whose window is above its limit."""


class DamagedStreamError(Exception):
    """A compressed file that ends too early or does not decode; the pieces before were sound."""


class RawFile:
    """A file, or a part of one, read once from front to back, with the crc32c of what was read."""

    def __init__(self, path: Path, begin: int = 0, end: int | None = None) -> None:
        self.path = path
        self.end = end
        try:
            self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        self.descriptor = self._stream.fileno()
        self.checksum = 0
        self.position = begin
        if begin:
            self._stream.seek(begin)

    def read(self, size: int = READ_BYTES) -> bytes:
        """The next bytes, none at the end. Raises DataError when the read fails."""
        if self.end is not None:
            size = min(size, self.end - self.position)
        try:
            content = self._stream.read(size)
        except OSError as error:
            raise DataError(
                f"{self.path}: read at byte {self.position} failed: {error.strerror}; repair that, then the same "
                "command goes on"
            ) from error
        self.checksum = _native.crc32c(content, self.checksum)
        self.position += len(content)
        return content

    def read_on(self) -> bytes:
        """Bytes after the end of a part that stops inside a member; none when it stops with its file."""
        return b""

    def drain(self) -> None:
        """Read the rest, so that the checksum covers the whole file."""
        while self.read():
            pass

    def __enter__(self) -> RawFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def plain_pieces(raw: RawFile) -> Iterator[bytes]:
    """The file as it is."""
    while piece := raw.read():
        yield piece


def gzip_pieces(raw: RawFile) -> Iterator[bytes]:
    """Decompressed pieces of a gzip file of any number of members; zeros may pad the end, as gzip allows."""
    from isal import igzip_lib

    damaged: Any = igzip_lib.IsalError
    pending = raw.read()
    while pending:
        decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not decompressor.eof:
            try:
                piece = decompressor.decompress(pending, PIECE_BYTES)
            except damaged as error:
                raise DamagedStreamError(f"gzip data damaged before byte {raw.position} ({error})") from error
            if piece:
                yield piece
            pending = b""
            if decompressor.needs_input and not decompressor.eof:
                pending = raw.read() or raw.read_on()
                if not pending:
                    raise DamagedStreamError(f"gzip data ends at byte {raw.position} inside a member")
        pending = decompressor.unused_data.lstrip(b"\0")
        while not pending:
            more = raw.read()
            if not more:
                return
            pending = more.lstrip(b"\0")


def zstd_pieces(raw: RawFile) -> Iterator[bytes]:
    """Decompressed pieces of a zstd file of any number of frames. Raises DataError for windows above 128 MiB."""
    import zstandard

    source: Any = _FollowedFrames(raw)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAXIMUM_WINDOW)
    reader = decompressor.stream_reader(source, read_size=READ_BYTES, read_across_frames=True, closefd=False)
    damaged: Any = zstandard.ZstdError
    while True:
        try:
            piece = reader.read(PIECE_BYTES)
        except damaged as error:
            if WINDOW_ERROR in str(error):
                raise DataError(
                    f"{raw.path}: a zstd frame before byte {raw.position} needs a window above 128 MiB, which is not "
                    "read, so that memory stays bounded; compress it again with --long=27 at most"
                ) from error
            raise DamagedStreamError(f"zstd data damaged before byte {raw.position} ({error})") from error
        if not piece:
            break
        yield piece
    if not source.frames.whole:  # the library takes the end of the file for the end of the frame
        raise DamagedStreamError(f"zstd data ends at byte {raw.position} inside a frame")


class _FollowedFrames:
    """The little of a Python file that zstandard asks for; knows where its frames end."""

    def __init__(self, raw: RawFile) -> None:
        self._raw = raw
        self.frames = FrameFollower()

    def read(self, size: int) -> bytes:
        """The next bytes, none at the end."""
        content = self._raw.read(size)
        self.frames.follow(content)
        return content


PIECES = {None: plain_pieces, "gz": gzip_pieces, "zst": zstd_pieces}
"""How a compression (or none) is read."""
