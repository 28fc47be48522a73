"""What the files of every format become: batches of documents, or a stream of bytes that is cut into records."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class StreamKind(NamedTuple):
    """How a stream of bytes is cut into records."""

    separator: str
    lines: bool
    """Records are lines of JSON, else texts."""


class DocumentBatch(NamedTuple):
    """Documents of a file with columns: texts as UTF-8 bytes, or ids, back to back."""

    first: int
    """Number of the first document in its file."""
    content: bytes | bytearray | memoryview | NDArray[np.uint8] | NDArray[np.uint32]
    ends: NDArray[np.uint64]
    """Where each document stops, in bytes or ids; with several columns, each text of a document."""
    ids: bool = False
    missing: NDArray[np.bool_] | None = None
    """Documents that hold no value; their texts are empty."""

    @property
    def documents(self) -> int:
        """Number of documents, those without a value included."""
        return len(self.ends) if self.missing is None else len(self.missing)
