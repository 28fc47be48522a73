"""Whether the numbers of a step may change the weights, judged before they do by the accepted steps before it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import TrainingError
from megatron_ettin.observe.records import NOTHING_UPDATED
from megatron_ettin.run_folder import go_back, list_checkpoints, note_change, rewinds
from megatron_ettin.train.totals import Totals
from megatron_ettin.train.worst_rows import RowLoss, describe, look_at

REFUSALS_BEFORE_STOP = 10
"""Steps in a row whose update was refused after which going on is pointless."""
REWINDS_BEFORE_STOP = 3
"""Times that a run goes back to the same checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a step. The numbers are equal on all ranks, so all judge alike."""

    accepted: bool
    """The update is applied."""
    kind: Literal["good", "spike", "not finite", "rewound"] = "good"
    """``rewound``: refused because an earlier rewind names the step."""
    reason: str = ""
    """What was found, for people."""
    rows: tuple[RowLoss, ...] = ()
    """The rows of the step that a bad one is to be looked for in."""

    @property
    def note(self) -> str:
        """For the record of the step; empty for a good one."""
        if self.kind == "good":
            return ""
        return f"{self.kind}{': ' + self.found if self.found else ''}{'' if self.accepted else ': ' + NOTHING_UPDATED}"

    @property
    def found(self) -> str:
        """The reason and the rows, for people; empty for a good one."""
        return "; ".join(part for part in (self.reason, describe(self.rows)) if part)


def judge(totals: Totals, state: TrainState, config: RunConfig, rewound: Collection[int] = ()) -> Verdict:
    """The verdict on the step after ``state``; ``rewound`` are steps whose updates a rewind refuses."""
    guard = config.guard
    if state.step + 1 in rewound:
        return Verdict(accepted=False, kind="rewound", reason="one of the steps that led to a spike")
    if not totals.finite:
        return Verdict(accepted=False, kind="not finite")
    recent = state.recent[-guard.window :]
    known = len(recent) >= min(guard.after, guard.window)
    usual = f"the median of the last {len(recent)} accepted steps"
    loss, norm = (median(pair[index] for pair in recent) if known else 0.0 for index in range(2))
    if not known:
        loss, usual = math.log(config.model.vocabulary), "that of guessing among the vocabulary"
    for name, value, reference, factor in (
        ("loss", totals.loss, loss, guard.loss_factor),
        ("gradient norm", totals.gradient_norm, norm, guard.gradient_factor),
    ):
        if reference and value > factor * reference:
            reason = f"{name} {value:.4g} is {value / reference:.3g} times {usual}, {reference:.4g}"
            return Verdict(accepted=guard.on_spike == "report", kind="spike", reason=reason)
    return Verdict(accepted=True)


def accepting_finite(totals: Totals) -> Verdict:
    """The verdict without any steps before."""
    return Verdict(accepted=totals.finite, kind="good" if totals.finite else "not finite")


def stop_when_hopeless(state: TrainState, verdict: Verdict, config: RunConfig, run: Path) -> None:
    """Raise TrainingError after too many refused steps in a row, and at a spike where guard.on_spike=stop asks for it.

    ``state`` is the one after the judged step, of which nothing is applied.
    """
    found = f"; {verdict.found}" if verdict.found else ""
    if state.refused_in_a_row >= REFUSALS_BEFORE_STOP:
        raise TrainingError(
            f"step {state.step}: the loss or the gradient was not finite or a spike in {state.refused_in_a_row} steps "
            f"in a row{found}; the weights are those before them. {remedy(state, config, run)}"
        )
    if verdict.kind == "spike" and config.guard.on_spike == "stop":
        raise TrainingError(f"step {state.step}: {verdict.found}; guard.on_spike=stop. {remedy(state, config, run)}")


def rewind(run: Path, config: RunConfig, state: TrainState, verdict: Verdict) -> int:
    """Make the newest checkpoint from before the trouble the newest of all, and write down which steps to refuse.

    Returns its step; ``state`` is the one after the spike. Only the first rank calls this. Raises TrainingError when no
    checkpoint is old enough or the run has gone back to it too often.
    """
    first = max(1, state.step - config.guard.rewind_steps + 1)
    steps = proven_good(run, state.step)
    step = max((step for step in steps if step < first), default=min(steps, default=0))
    times = sum(change["step"] == step for change in rewinds(run))
    if not step or times >= REWINDS_BEFORE_STOP:
        why = f"the run has gone back to step {step} {times} times" if step else "it cannot go back"
        raise TrainingError(f"step {state.step}: {verdict.found}; {why}. {remedy(state, config, run)}")
    refused = list(range(max(step + 1, first), state.step + 1))
    go_back(run, step)  # first: whoever is killed between the two meets the spike again
    rows = [item.row for item in verdict.rows]
    note_change(run, {"kind": "rewind", "step": step, "refused": refused, "reason": verdict.found, "rows": rows})
    return step


def proven_good(run: Path, bad_since: int) -> list[int]:
    """Steps of the checkpoints whose weights took a good step afterwards: those before the last good step."""
    return [checkpoint.step for checkpoint in list_checkpoints(run) if checkpoint.step < bad_since - 1]


def remedy(state: TrainState, config: RunConfig, run: Path) -> str:
    """How to go on from before the trouble, and how to look at the rows; ``state`` is the one after the last step."""
    rows = f"Look at the rows with `{look_at(run, state.bad_since)}`"
    rate = f"--schedule.peak-rate {config.schedule.peak_rate / 2:g}"
    good = proven_good(run, state.bad_since)
    if not good:
        return f"No checkpoint is proven by a good step after it: begin again with --start-over {rate}. {rows}"
    return (
        f"The last good checkpoint is that of step {good[-1]}: go on from it at a lower rate with the same command and "
        f"--change-at {good[-1]} {rate}. {rows}"
    )
