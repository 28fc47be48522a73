"""Where the figures of a run go: metrics.jsonl, the console, TensorBoard and Weights & Biases, from one rank."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol, TextIO

from megatron_ettin.config.run import RunConfig
from megatron_ettin.observe.console import Console
from megatron_ettin.observe.records import Record, keep_until, to_line
from megatron_ettin.observe.wandb import WeightsAndBiases
from megatron_ettin.run_folder import CONSOLE, METRICS, TENSORBOARD


class Sink(Protocol):
    """Something that takes records."""

    def write(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Flush and let go."""


class JsonLines:
    """metrics.jsonl, line by line: what is written survives a crash of the process."""

    def __init__(self, run: Path) -> None:
        self._file = (run / METRICS).open("a", encoding="utf-8", buffering=1)

    def write(self, record: Record) -> None:
        """Append one line."""
        self._file.write(to_line(record))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard scalars, one for each number of a record, with the step as axis."""

    def __init__(self, run: Path, start_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(run / TENSORBOARD))
        if start_step:
            purge = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=start_step + 1, session_log=purge))

    def write(self, record: Record) -> None:
        """Add the record's numbers."""
        kind = record.get("kind", "step")
        values = [
            self._summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in record.items()
            if name not in ("kind", "step") and isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        event = self._event(wall_time=time.time(), step=record["step"], summary=self._summary(value=values))
        self._writer.add_event(event)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class Sinks:
    """All sinks of a run. On ranks that do not report it takes everything and does nothing."""

    def __init__(self, sinks: list[Sink], console: Console | None) -> None:
        self._sinks, self._console = sinks, console

    def write(self, record: Record) -> None:
        """Hand one record to every sink; ``kind``, ``step`` (steps finished) and ``tokens`` are required."""
        for sink in self._sinks:
            sink.write(record)

    def message(self, text: str) -> None:
        """A line for people, on the console and in console.log."""
        if self._console is not None:
            self._console.message(text)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()


def open_sinks(run: Path, config: RunConfig, reports: bool, start_step: int = 0, stream: TextIO | None = None) -> Sinks:
    """The sinks of a run folder. ``reports`` is true on one rank only.

    ``start_step`` is the step a run resumes from: records of later steps, which a killed run left, are dropped.
    """
    if not reports:
        return Sinks([], None)
    run.mkdir(parents=True, exist_ok=True)
    keep_until(run, start_step)
    console = Console(run / CONSOLE, config.schedule.tokens, config.observe.log_every, stream)
    sinks: list[Sink] = [JsonLines(run), console]
    if config.observe.tensorboard:
        sinks.append(TensorBoard(run, start_step))
    if config.observe.wandb:
        sinks.append(WeightsAndBiases(run, config))
    return Sinks(sinks, console)
