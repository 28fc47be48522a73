"""Decompression ahead of the encoder: the parts of a file, and the files after it, each in a thread of its own.

Pieces are handed out in the order of the input, so that what is built never depends on the number of threads.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from megatron_ettin import _native
from megatron_ettin.sources.compressed import PIECES, RawFile
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.members import next_cut

PIECES_AHEAD = 16
"""Pieces of a part that wait to be taken: 8 MiB."""
ENCODERS_A_READER = 4
"""One thread decompresses gzip four to five times as fast as one encodes."""
POLL_SECONDS = 0.2


class RawPart(RawFile):
    """A part of a compressed file, read from front to back, with the checksum of what was read."""

    def __init__(self, source: Source, begin: int, end: int) -> None:
        super().__init__(source.path, begin, end)
        self._source = source

    def read_on(self) -> bytes:
        """Bytes after the end of the part, which turned out to lie inside a member: the part takes in the next one."""
        if self.end is None or self.end >= self._source.size:
            return b""
        self.end = next_cut(self.descriptor, self._source.compression, self.end, self._source.size)
        return self.read()


class _Part(threading.Thread):
    """Decompresses one part into a queue of bounded size."""

    def __init__(self, source: Source, begin: int, end: int) -> None:
        super().__init__(daemon=True, name=f"read {source.path.name} from {begin}")
        self.source, self.begin, self.end = source, begin, end
        self.checksum = 0
        self._queue: queue.Queue[tuple[bytes, int] | BaseException | None] = queue.Queue(PIECES_AHEAD)
        self.dropped = threading.Event()
        """Set when what the thread reads is not needed; then it ends."""

    def run(self) -> None:
        """Fill the queue; an error is its last entry, None a good end."""
        last: BaseException | None = None
        try:
            with RawPart(self.source, self.begin, self.end) as raw:
                for piece in PIECES[self.source.compression](raw):
                    self._put((piece, raw.position))
                    if self.dropped.is_set():
                        return
                self.end, self.checksum = raw.position, raw.checksum
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that takes the pieces
            last = error
        self._put(last)

    def _put(self, entry: tuple[bytes, int] | BaseException | None) -> None:
        while not self.dropped.is_set():
            try:
                self._queue.put(entry, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def pieces(self) -> Iterator[tuple[bytes, int]]:
        """Each piece, and how far its file had been read. Raises what the reading thread met."""
        while True:
            try:
                entry = self._queue.get(timeout=POLL_SECONDS)  # wakes up for signals
            except queue.Empty:
                continue
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            yield entry


class ReadAhead:
    """The contents of several files, one after the other; a few parts are decompressed ahead."""

    def __init__(
        self, sources: Sequence[Source], encoders: int, there: Callable[[Source], bool] = lambda source: True
    ) -> None:
        """``there`` tells whether a file can be read yet; that whose pieces are asked for can."""
        self._readers = 1 + encoders // ENCODERS_A_READER
        self._there, self._asked = there, 0
        self._coming = self._parts(sources)
        self._running: deque[_Part] = deque()
        self.checksum = 0
        """crc32c of the file, or part of one, whose pieces were taken last, once all were."""

    def _parts(self, sources: Sequence[Source]) -> Iterator[_Part | None]:
        """The parts of the sources in order; None instead of one whose file is not there yet."""
        for number, source in enumerate(sources, 1):
            begin = source.begin
            while begin < source.end and number >= self._asked:
                if not self._there(source):
                    yield None
                    continue
                end = source.end
                if self._readers > 1:
                    with RawFile(source.path) as raw:
                        end = next_cut(raw.descriptor, source.compression, begin, source.end)
                yield _Part(source, begin, end)
                begin = end

    def pieces(self, source: Source) -> Iterator[tuple[bytes, int]]:
        """The decompressed pieces of the next source, and up to which byte of its file was read for them.

        Raises DamagedStreamError, and DataError when a read fails.
        """
        checksum, position = 0, source.begin
        self._asked += 1
        while position < source.end:
            while len(self._running) < self._readers and (coming := next(self._coming, None)) is not None:
                coming.start()
                self._running.append(coming)
            part = self._running.popleft()
            if part.source is not source or part.begin < position:  # of a damaged file, or inside a member
                part.dropped.set()
                continue
            try:
                yield from part.pieces()
            finally:
                part.dropped.set()
            position = part.end
            checksum = _native.crc32c_combine(checksum, part.checksum, part.end - part.begin)
        self.checksum = checksum

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._running:
            part.dropped.set()
