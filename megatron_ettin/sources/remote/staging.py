"""The next files are fetched to this disk while the present one is read; what is staged at a time is bounded."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from megatron_ettin.errors import DataError
from megatron_ettin.publish import staging_path
from megatron_ettin.sources.files import Source, require_kind
from megatron_ettin.sources.remote.retry import NotWantedError

if TYPE_CHECKING:
    from megatron_ettin.sources.remote.transfer import Range

FILES_AT_ONCE = 4
"""Files that are fetched side by side: many small ones do not wait for each other's first byte."""
READING_SPACE = 4 << 30
"""Bytes that are fetched ahead where text is read once, and perhaps not to its end."""
POLL_SECONDS = 0.2
LONGEST_STOP = 5.0
"""Seconds that the end of a build waits for a fetch under way; what it has written is continued later."""


def staged_path(source: Source, folder: Path) -> Path:
    """Where a file elsewhere, or what is needed of it, is staged: a name of its own for each content and part."""
    remote = source.remote
    assert remote is not None
    content = [remote.name, str(remote.size), remote.etag, str(source.begin), str(source.end)]
    return folder / f"fetched-{hashlib.sha256('|'.join(content).encode()).hexdigest()[:24]}"


@contextlib.contextmanager
def told_by_address(sources: Sequence[Source]) -> Iterator[None]:
    """Whoever reads knows the staged files; an error that names one is told of its address."""
    try:
        yield
    except DataError as error:
        text = str(error)
        for source in sources:
            if source.remote is not None:
                text = text.replace(str(source.path), source.name)
        if text == str(error):
            raise
        raise DataError(text) from error


class Stager:
    """Fetches sources that lie elsewhere, in order, as far ahead as the space allows."""

    def __init__(self, sources: Sequence[Source], first: int, space: int, read: Callable[[], int]) -> None:
        """Fetch from source ``first`` on. ``space`` is in bytes; a file above it is staged alone.

        ``read`` tells how many sources are done with. Their files are removed when room is needed, and at the end. The
        others stay for a build that goes on.
        """
        self._sources, self._next, self._space, self._read = sources, first, space, read
        self._removed = self._staged_bytes = 0
        self._arrived: dict[Path, BaseException | None] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        remote = any(source.remote is not None for source in sources)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(FILES_AT_ONCE if remote else 0)]
        self.fetched = 0
        """Bytes that came over the network."""

    def there(self, source: Source) -> bool:
        """Whether a source can be read from this disk."""
        return source.remote is None or self._arrived.get(source.path, self) is None

    def wait(self, source: Source, on_wait: Callable[[], None]) -> None:
        """Return once a source can be read; ``on_wait`` is called meanwhile. Raises what its fetch met."""
        while source.remote is not None and source.path not in self._arrived:
            on_wait()
            with self._changed:
                self._changed.wait(POLL_SECONDS)
        if (error := self._arrived.get(source.path)) is not None:
            raise error

    def _run(self) -> None:
        while (source := self._take()) is not None:
            error: BaseException | None = None
            try:
                if not source.path.exists():
                    self._fetch(source)
            except NotWantedError:
                return
            except BaseException as trouble:  # noqa: BLE001 - raised again by who waits for the source
                error = trouble
            with self._changed:
                self._arrived[source.path] = error
                self._changed.notify_all()

    def _fetch(self, source: Source) -> None:
        from megatron_ettin.sources.remote.transfer import transfer

        assert source.remote is not None
        transfer(
            source.remote, source.path, self._stop, self._count, needed(source),
            whole_lines=source.splits and source.bytes < source.size,
        )  # fmt: skip

    def _count(self, size: int) -> None:
        with self._changed:
            self.fetched += size

    def _take(self) -> Source | None:
        """The next source to fetch, once there is room for it; None when there is none, or at the end."""
        with self._changed:
            while not self._stop.is_set():
                while self._next < len(self._sources) and self._sources[self._next].remote is None:
                    self._next += 1
                if self._next == len(self._sources):
                    return None
                source = self._sources[self._next]
                self._remove_read()
                size = staged_bytes(source)
                if not self._staged_bytes or self._staged_bytes + size <= self._space:
                    self._next += 1
                    self._staged_bytes += size
                    return source
                self._changed.wait(POLL_SECONDS)
        return None

    def _remove_read(self) -> None:
        """Remove the files of sources that are done with."""
        done = min(self._read(), self._next)
        for source in self._sources[self._removed : done]:
            if source.remote is not None:
                source.path.unlink(missing_ok=True)
                self._staged_bytes -= staged_bytes(source) if source.path in self._arrived else 0
        self._removed = max(done, self._removed)

    def __enter__(self) -> Stager:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + LONGEST_STOP
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._remove_read()


@contextlib.contextmanager
def read_in_order(sources: Sequence[Source], beside: Path) -> Iterator[Iterator[Source]]:
    """The sources one after the other, each on this disk while it is read; what is fetched lies hidden ``beside``.

    Raises DataError for one that cannot be had, or is not of the kind that its name says.
    """
    if all(source.remote is None for source in sources):
        yield iter(sources)
        return
    folder = staging_path(beside)
    folder.mkdir(parents=True)
    placed = [replace(source, path=staged_path(source, folder) if source.remote else source.path) for source in sources]
    read = 0

    def each() -> Iterator[Source]:
        nonlocal read
        for source in placed:
            stager.wait(source, lambda: None)
            require_kind(source)
            yield source
            read += 1

    try:
        with told_by_address(placed), Stager(placed, 0, READING_SPACE, lambda: read) as stager:
            yield each()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def staged_bytes(source: Source) -> int:
    """Bytes that a source takes on this disk at most, but for the end of its last line."""
    return source.bytes if source.splits else source.size


def needed(source: Source) -> list[Range] | None:
    """What of a file a part needs: of lines the part and the byte before it, of parquet its row groups and the footer.

    None is all.
    """
    if source.bytes == source.size:
        return None
    if source.splits:
        return [(max(source.begin - 1, 0), source.end)]
    if source.format == "parquet":
        from megatron_ettin.sources.parquet import needed_ranges

        return needed_ranges(source)
    return None
