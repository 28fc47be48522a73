"""What the files of every format become: batches of documents, or a stream of bytes that is cut into records."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NO_VALUE, FIELD_COUNT = 1, 2
"""Why a row is no document: it holds null, or not as many fields as there are columns. As in csrc/corpus/block.h."""


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
    faults: NDArray[np.uint8] | None = None
    """Of each row 0, or why it is no document: NO_VALUE, FIELD_COUNT. The texts of such rows are empty."""

    @property
    def documents(self) -> int:
        """Number of rows, those that are no documents included."""
        return len(self.ends) if self.faults is None else len(self.faults)
