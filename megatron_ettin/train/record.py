"""What a run tells: one record a step, held-out losses, and lines for people."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch

from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.hardware import peak_flops
from megatron_ettin.observe import Meter, Sinks, open_sinks, peak_bytes
from megatron_ettin.observe.records import MetricsRecord
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.step import StepResult
from megatron_ettin.train.worst_rows import look_at


class Recorder(AbstractContextManager["Recorder"]):
    """Writes metrics.jsonl, TensorBoard and the console from the first rank; elsewhere it does nothing.

    Used within ``with``: whatever ends the block closes what it writes to.
    """

    def __init__(self, config: RunConfig, groups: Groups, run: Path, sources: list[str]) -> None:
        self._config, self._run, self._sources = config, run, sources
        self._reports = groups.world.is_first
        device = torch.cuda.get_device_name() if groups.device.kind == "cuda" else "CPU"
        self._meter = Meter(peak_flops(device, config.compute.precision), groups.world.size)
        self._early: list[str] = []
        self._sinks: Sinks | None = None

    def __exit__(self, *error: object) -> None:
        self.close_sinks()

    def open(self, state: TrainState) -> None:
        """Begin to write, after the records of ``state``; lines said before are written first."""
        self._sinks = open_sinks(self._run, self._config, self._reports, state.step)
        for text in self._early:
            self._sinks.message(text)

    def say(self, text: str) -> None:
        """A line for people."""
        if self._sinks is None:
            self._early.append(text)
        else:
            self._sinks.message(text)

    def saved(self, path: Path, reason: str, seconds: float, waited: float | None = None) -> None:
        """A checkpoint is there. What has not been written beside it is said with it.

        ``waited``: seconds of ``seconds`` that the loop waited for a save in the background.
        """
        failing = self._sinks.failing if self._sinks is not None else set()
        lacking = f"; not written at present: {', '.join(sorted(failing))}" if failing else ""
        beside = "" if waited is None else f", {waited:.1f} s of them waited for"
        self.say(f"saved {path} ({reason}) in {seconds:.1f} s{beside}{lacking}")

    def step(self, state: TrainState, result: StepResult, rate: float, seconds: float) -> None:
        """A step has ended that took ``seconds``, waiting for data included; ``state`` is the one after it."""
        totals = result.totals
        reading = self._meter.add(seconds, totals.tokens, totals.flops, result.verdict.accepted)
        kinds = OBJECTIVES[self._config.objective].row_kinds
        by_source = zip(self._sources, totals.source_loss, totals.source_labels, strict=True)
        record: MetricsRecord = {
            "kind": "step",
            "step": state.step,
            "tokens": state.tokens,
            "loss": totals.loss,
            "lr": rate,
            "gradient_norm": totals.gradient_norm,
            "labels": totals.labels,
            "batch": f"{totals.digest:016x}",
            "sources": {name: loss for name, loss, count in by_source if count},
            "refused": state.refused,
            "peak_bytes": peak_bytes(),
            **asdict(reading),
        }
        if kinds:
            record |= {f"loss_{name}": loss for name, loss in zip(kinds, totals.kind_loss, strict=True)}
        verdict = result.verdict
        if verdict.note:
            record["note"] = verdict.note
        if verdict.rows:
            record["worst_rows"] = [list(item) for item in verdict.rows]
        self._write(record)
        if state.bad_since == state.step and self._reports:
            rows = look_at(self._run, state.step, verdict.rows)
            self.say(f"step {state.step}: {verdict.note}; look at its rows: {rows}")

    def evaluation(
        self, state: TrainState, loss: float, kinds: Mapping[ObjectiveName, float] | None = None,
        remembered: float | None = None,
    ) -> None:  # fmt: skip
        """Held-out loss of the weights after ``state``, and by the objectives of rows where the run mixes them.

        ``remembered``: that of the text that is not to be forgotten, where one is named.
        """
        by_kind = {f"loss_{name}": value for name, value in (kinds or {}).items()}
        beside = {} if remembered is None else {"remembered": remembered}
        record = {"kind": "evaluation", "step": state.step, "tokens": state.tokens, "loss": loss, **by_kind, **beside}
        self._write(record)

    def rounding(self, state: TrainState, numbers: Mapping[str, float]) -> None:
        """What fp8 makes of each layer's products in the last step, by ``layer.product.operand``."""
        self._write({"kind": "fp8", "step": state.step, "tokens": state.tokens, **numbers})

    def close(self, state: TrainState, received: int) -> None:
        """Say how the run ended and how to go on."""
        if state.finished:
            self.say(f"finished: {state.step} steps, {state.tokens:,} tokens; {self._run}")
        elif state.step:
            name = signal.Signals(received).name
            self.say(f"stopped by {name} after step {state.step}, saved in {self._run}; the same command goes on")
        else:
            self.say(f"stopped by {signal.Signals(received).name} before the first step; nothing to save")
        self.close_sinks()

    def close_sinks(self) -> None:
        """Write nothing more until ``open``."""
        if self._sinks is not None:
            self._sinks.close()
        self._sinks, self._early = None, []

    def _write(self, record: MetricsRecord) -> None:
        if self._sinks is not None:
            self._sinks.write(record)
