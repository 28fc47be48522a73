"""Where the figures of a run go: metrics.jsonl, the console, TensorBoard and Weights & Biases, from one rank."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from megatron_ettin.config.codec import to_dict
from megatron_ettin.config.run import RunConfig
from megatron_ettin.observe.console import Console
from megatron_ettin.observe.records import MetricsRecord, finite, keep_until
from megatron_ettin.run_folder import CONSOLE, METRICS, TENSORBOARD


class JsonLines:
    """metrics.jsonl, line by line: what is written survives a crash of the process.

    Lines that a full disk refuses are kept and written before the next one, so that the file has no holes.
    """

    def __init__(self, run: Path) -> None:
        self._file = (run / METRICS).open("ab", buffering=0)
        self._pending = b""

    def write(self, record: MetricsRecord) -> None:
        """Append one line. A number that is not finite becomes null and its name is listed under ``not_finite``.

        Raises OSError when the disk refuses it; it is tried again with the next.
        """
        wild = [name for name, value in record.items() if finite(value) != value]
        plain = {name: finite(value) for name, value in record.items()} | ({"not_finite": wild} if wild else {})
        self._pending += json.dumps(plain, allow_nan=False).encode() + b"\n"
        self._flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        while self._pending:
            written = self._file.write(self._pending)
            self._pending = self._pending[written:]


def _numbers(record: MetricsRecord) -> dict[str, float]:
    """The numbers of a record under names that say its kind, such as ``step/loss``."""
    kind = record.get("kind", "step")
    return {
        f"{kind}/{name}": value
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


class TensorBoard:
    """TensorBoard scalars, one for each number of a record, with the step as axis; undone steps are purged.

    All numbers of a record are one event: an event costs a tenth of a millisecond, whatever it holds.
    """

    def __init__(self, run: Path, start_step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter

        purge_step = start_step + 1 if start_step else None
        self._writer: Any = SummaryWriter(str(run / TENSORBOARD), purge_step=purge_step)
        self._summary: Any = Summary

    def write(self, record: MetricsRecord) -> None:
        """Add the record's numbers."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in _numbers(record).items()]
        self._writer.file_writer.add_summary(self._summary(value=values), record["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, where it is asked for and installed; a resumed run goes on under the same name."""

    def __init__(self, run: Path, config: RunConfig) -> None:
        wandb: Any = importlib.import_module("wandb")
        folder = str(run.resolve())
        self._run = wandb.init(
            project=config.observe.wandb,
            name=run.name,
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            dir=folder,
            config=to_dict(config),
            resume="allow",
        )

    def write(self, record: MetricsRecord) -> None:
        """Report the record's numbers at its step."""
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


Sink = Console | JsonLines | TensorBoard | WeightsAndBiases
"""What takes records, and lets go of what it writes to when it is closed."""


class Sinks:
    """All sinks of a run. On ranks that do not report it takes everything and does nothing.

    Nothing that a sink does can cost a run a step: what fails is said once, and again when it works again.
    """

    def __init__(self, sinks: Mapping[str, Callable[[], Sink]], console: Console | None) -> None:
        self._console = console
        self.failing: set[str] = set()
        """Sinks that have not taken the last record."""
        self._sinks: dict[str, Sink] = {} if console is None else {CONSOLE: console}
        for name, make in sinks.items():
            with self._survived(name):
                self._sinks[name] = make()

    def write(self, record: MetricsRecord) -> None:
        """Hand one record to every sink; ``kind``, ``step`` (steps finished) and ``tokens`` are required."""
        for name, sink in self._sinks.items():
            with self._survived(name):
                sink.write(record)

    def message(self, text: str) -> None:
        """A line for people, on the console and in console.log."""
        if self._console is not None:
            self._console.message(text)

    def close(self) -> None:
        """Close every sink."""
        for name, sink in self._sinks.items():
            with self._survived(name):
                sink.close()

    @contextlib.contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        """Say the first failure of a sink and the first success after it."""
        try:
            yield
        except Exception as error:
            if name not in self.failing:
                self.failing.add(name)
                self.message(f"{name} is not written: {error or type(error).__name__}; the training goes on")
        else:
            if name in self.failing:
                self.failing.discard(name)
                self.message(f"{name} is written again")


def open_sinks(run: Path, config: RunConfig, reports: bool, start_step: int = 0, stream: TextIO | None = None) -> Sinks:
    """The sinks of a run folder. ``reports`` is true on one rank only.

    ``start_step`` is the step a run resumes from: records of later steps, which a killed run left, are dropped.
    """
    if not reports:
        return Sinks({}, None)
    run.mkdir(parents=True, exist_ok=True)
    keep_until(run, start_step)
    console = Console(run / CONSOLE, config.schedule.tokens, config.observe.log_every, stream)
    sinks: dict[str, Callable[[], Sink]] = {METRICS: lambda: JsonLines(run)}
    if config.observe.tensorboard:
        sinks["TensorBoard"] = lambda: TensorBoard(run, start_step)
    if config.observe.wandb:
        sinks["Weights & Biases"] = lambda: WeightsAndBiases(run, config)
    return Sinks(sinks, console)
