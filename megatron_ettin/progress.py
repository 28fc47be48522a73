"""One progress line for all long work: rate and time left on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TextIO


def format_count(value: float, unit: str = "") -> str:
    """A short decimal form: 1234567 -> '1.23M'."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.2f}{suffix}{unit}"
    return f"{value:.0f}{unit}"


def format_seconds(seconds: float) -> str:
    """A short clock form: 3725 -> '1:02:05'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(text: str) -> None:
    """Print a line that is seen at once, also in a pipe."""
    print(text, flush=True)


class Progress(AbstractContextManager["Progress"]):
    """A line that shows how far a long task is. ``total`` may be 0 when it is not known.

    Writes to ``stream`` (standard error) only when that is a terminal, at most five times a second.
    """

    def __init__(self, title: str, total: float, unit: str, stream: TextIO | None = None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self._stream = stream if stream is not None else sys.stderr
        self._shows = self._stream.isatty()
        self._start = self._last = time.monotonic()

    def update(self, done: float, detail: str = "") -> None:
        """Say that ``done`` units are finished; ``detail`` is printed at the end of the line."""
        now = time.monotonic()
        if self._shows and now - self._last >= 0.2:
            self._last = now
            self._write(self.line(done, now - self._start, detail))

    def tick(self) -> None:
        """Show how long it has taken so far, where nothing else is known."""
        if self._shows:
            self._write(f"{self.title}: {format_seconds(time.monotonic() - self._start)}")

    def rate(self, done: float) -> float:
        """Units a second if ``done`` of them are finished."""
        return done / max(time.monotonic() - self._start, 1e-9)

    def line(self, done: float, seconds: float, detail: str = "") -> str:
        """The text of the progress line after ``seconds``."""
        rate = done / seconds if seconds > 0 else 0.0
        text = f"{self.title}: {format_count(done, self.unit)}"
        if self.total:
            text += f" of {format_count(self.total, self.unit)} ({done / self.total:.0%})"
        text += f", {format_count(rate, self.unit)}/s"
        if self.total and rate:
            text += f", {format_seconds((self.total - done) / rate)} left"
        return f"{text}, {detail}" if detail else text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shows:
            self._write("")

    def _write(self, text: str) -> None:
        """Put a text in the place of the line."""
        self._stream.write("\r\x1b[K" + text)
        self._stream.flush()


@contextmanager
def elapsed(title: str, stream: TextIO | None = None) -> Iterator[None]:
    """A line with a running clock while something works that cannot say how far it is; silence off a terminal."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(1.0):
            progress.tick()

    with Progress(title, 0, "s", stream) as progress:
        clock = threading.Thread(target=tick, daemon=True)
        clock.start()
        try:
            yield
        finally:
            done.set()
            clock.join()
