"""Where the figures of a run go: metrics.jsonl, the console, TensorBoard and Weights & Biases, from one rank."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any, Protocol, TextIO

from megatron_ettin.config.codec import to_dict
from megatron_ettin.config.run import RunConfig
from megatron_ettin.observe.console import Console
from megatron_ettin.observe.records import MetricsRecord, keep_until, to_line
from megatron_ettin.run_folder import CONSOLE, METRICS, TENSORBOARD


class Sink(Protocol):
    """Something that takes records."""

    def write(self, record: MetricsRecord) -> None:
        """Take one record."""

    def close(self) -> None:
        """Flush and let go."""


class JsonLines:
    """metrics.jsonl, line by line: what is written survives a crash of the process."""

    def __init__(self, run: Path) -> None:
        self._file = (run / METRICS).open("a", encoding="utf-8", buffering=1)

    def write(self, record: MetricsRecord) -> None:
        """Append one line."""
        self._file.write(to_line(record))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _numbers(record: MetricsRecord) -> dict[str, float]:
    """The numbers of a record under names that say its kind, such as ``step/loss``."""
    kind = record.get("kind", "step")
    return {
        f"{kind}/{name}": value
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


class TensorBoard:
    """TensorBoard scalars, one for each number of a record, with the step as axis; undone steps are purged."""

    def __init__(self, run: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = start_step + 1 if start_step else None
        self._writer: Any = SummaryWriter(str(run / TENSORBOARD), purge_step=purge_step)

    def write(self, record: MetricsRecord) -> None:
        """Add the record's numbers."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

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


class Sinks:
    """All sinks of a run. On ranks that do not report it takes everything and does nothing."""

    def __init__(self, sinks: list[Sink], console: Console | None) -> None:
        self._sinks, self._console = sinks, console

    def write(self, record: MetricsRecord) -> None:
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
