"""The console: one line of figures, replaced in place on a terminal and kept every few steps."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO, TextIO

from megatron_ettin.observe.records import MetricsRecord
from megatron_ettin.progress import format_count, format_seconds

CLEAR = "\r\x1b[K"


def step_line(record: MetricsRecord, total_tokens: int) -> str:
    """One step in words: ``step 120 | tokens 983k of 2.00M (49%) | loss 5.1234 | rate 3.00e-03 | ...``."""
    tokens, speed = record["tokens"], record.get("tokens_per_second")
    share = min(1.0, tokens / total_tokens)
    parts = [f"step {record['step']}", f"tokens {format_count(tokens)} of {format_count(total_tokens)} ({share:.0%})"]
    for name, key, form in (
        ("loss", "loss", ".4f"), ("rate", "lr", ".2e"), ("norm", "gradient_norm", ".3f"), ("MFU", "mfu", ".1%"),
    ):  # fmt: skip
        if record.get(key) is not None:
            parts.append(f"{name} {record[key]:{form}}")
    if speed:
        parts += [f"{format_count(speed)} tokens/s", f"{format_seconds(max(0, total_tokens - tokens) / speed)} left"]
    return " | ".join(parts)


class Console:
    """Prints to ``stream`` and to ``console.log``.

    On a terminal the current step is shown in place; in both cases every ``log_every``-th step, evaluations and
    messages stay as lines.
    """

    def __init__(self, log: Path, total_tokens: int, log_every: int, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._path = log
        self._log: BinaryIO | None = None
        self._total, self._every = total_tokens, log_every
        self._live = self._stream.isatty()

    def message(self, text: str) -> None:
        """A line that stays. A terminal that is gone and a disk that is full cost the line and nothing else."""
        self._show(f"{CLEAR if self._live else ''}{text}\n")
        with contextlib.suppress(OSError):
            if self._log is None:
                self._log = self._path.open("ab", buffering=0)
            self._log.write(text.encode() + b"\n")

    def _show(self, text: str) -> None:
        """Write to the stream; when nobody reads it any more, what follows goes nowhere."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def write(self, record: MetricsRecord) -> None:
        """Show one record."""
        if record.get("kind") == "evaluation":
            values = [f"{name} {value:.4f}" for name, value in record.items() if isinstance(value, float)]
            self.message(f"step {record['step']} | held out | " + " | ".join(values))
        elif record.get("kind") == "fp8":
            shares = {name: value for name, value in record.items() if name.endswith(".underflow")}
            worst = max(shares, key=lambda name: shares[name])
            self.message(f"step {record['step']} | fp8 | at most {shares[worst]:.2%} become 0, in {worst}")
        elif record["step"] % self._every == 0 or record["tokens"] >= self._total or "note" in record:
            note = f" | {record['note']}" if "note" in record else ""
            self.message(step_line(record, self._total) + note)
        elif self._live:
            self._stream.write(CLEAR + step_line(record, self._total))
            self._stream.flush()

    def close(self) -> None:
        """Leave the terminal clean and close the log."""
        if self._live:
            self._show(CLEAR)
        if self._log is not None:
            self._log.close()
