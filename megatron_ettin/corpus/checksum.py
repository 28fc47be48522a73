"""crc32c of the files of a corpus: as manifests store it, and counted while a file is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megatron_ettin import _native
from megatron_ettin.corpus.manifest import FileChecksum
from megatron_ettin.errors import DataError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

KIND = "crc32c"


def checksum_text(value: int) -> str:
    """A checksum as manifests store it."""
    return f"{KIND}:{value:08x}"


def checksum_value(text: str) -> int:
    """The number in a checksum of a manifest. Raises DataError for one of another kind."""
    kind, _, value = text.partition(":")
    if kind != KIND:
        raise DataError(f"checksum {text!r}: only {KIND} is known; build the corpus again")
    return int(value, 16)


def file_checksum(content: bytes) -> FileChecksum:
    """Size and checksum of a small file."""
    return FileChecksum(bytes=len(content), checksum=checksum_text(_native.crc32c(content)))


class ChecksummedWriter:
    """Passes writes on, with their size and crc32c."""

    def __init__(self, stream: SupportsWrite[bytes]) -> None:
        self._stream = stream
        self.size = 0
        self.checksum = 0

    def write(self, content: bytes) -> None:
        """Write and count."""
        self._stream.write(content)
        self.checksum = _native.crc32c(content, self.checksum)
        self.size += len(content)

    @property
    def written(self) -> FileChecksum:
        """Size and checksum of what was written."""
        return FileChecksum(bytes=self.size, checksum=checksum_text(self.checksum))
