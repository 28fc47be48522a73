"""How fast a run is, and how much memory it has held."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

STEPS_REMEMBERED = 20
"""Steps that a rate is averaged over: long enough to be steady, short enough to show a change."""


@dataclass(frozen=True)
class Reading:
    """The speed after a step, under the names of the fields of a metrics record."""

    step_seconds: float
    """Wall time of this step, waiting for data included."""
    tokens_per_second: float
    """Of all ranks together, over the last steps."""
    mfu: float | None
    """Model FLOPs over peak FLOPs, over the last steps; None where the device's peak is not known."""
    goodput: float
    """Share of the time since the start that went into steps, not into saving, evaluating or skipped steps."""


class Meter:
    """Collects steps. ``peak_flops`` is of one device and None when unknown; ``devices`` share the work."""

    def __init__(
        self, peak_flops: float | None, devices: int = 1, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._peak = peak_flops * devices if peak_flops else None
        self._clock = clock
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=STEPS_REMEMBERED)
        self._begin = clock()
        self._useful = 0.0

    def add(self, seconds: float, tokens: int, flops: float, accepted: bool = True) -> Reading:
        """A step took ``seconds`` for ``tokens`` tokens of the global batch and ``flops`` training FLOPs."""
        self._recent.append((seconds, tokens, flops))
        self._useful += seconds if accepted else 0.0
        spent = max(sum(item[0] for item in self._recent), 1e-9)
        return Reading(
            step_seconds=seconds,
            tokens_per_second=sum(item[1] for item in self._recent) / spent,
            mfu=sum(item[2] for item in self._recent) / spent / self._peak if self._peak else None,
            goodput=min(1.0, self._useful / max(self._clock() - self._begin, 1e-9)),
        )


def peak_bytes() -> int:
    """The most memory held so far: of the accelerator's allocator where one is in use, else of the process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
