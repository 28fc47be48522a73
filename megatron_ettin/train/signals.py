"""A signal asks the loop to stop after the running step; nothing is interrupted in the middle."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)
"""From Slurm, people, a closed terminal; each means: save, then leave."""
EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C."""
EXIT_STOPPED = 75
"""Exit status after SIGTERM or SIGUSR1: the run is saved and not finished (EX_TEMPFAIL: try again)."""


class StopRequest:
    """Remembers the first signal while it is open; a second SIGINT raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.received: int = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []  # nohup
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS if number not in ignored}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
