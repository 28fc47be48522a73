"""The training loop, and when a checkpoint or an evaluation is due in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from megatron_ettin.checkpoint.retention import Reason
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import CheckpointConfig
from megatron_ettin.config.sharing import sharing_at
from megatron_ettin.errors import EttinError
from megatron_ettin.observe.records import has_evaluation
from megatron_ettin.parallel.together import everywhere, everywhere_own, on_first
from megatron_ettin.parallel.watchdog import Watchdog
from megatron_ettin.rows.loader import Loader
from megatron_ettin.rows.run_data import RunData
from megatron_ettin.schedule import learning_rate_factor
from megatron_ettin.train.fp8_watch import everyones, watched
from megatron_ettin.train.guard import REFUSALS_BEFORE_STOP, Verdict, judge, stop_when_hopeless
from megatron_ettin.train.parts import Parts
from megatron_ettin.train.record import Recorder
from megatron_ettin.train.saves import Saves
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.step import Asks, held_out_sums, train_step
from megatron_ettin.train.totals import Totals


class SpikeError(Exception):
    """A step that sends the run back to an earlier checkpoint, as guard.on_spike=rewind asks."""

    def __init__(self, state: TrainState, verdict: Verdict) -> None:
        super().__init__(verdict.found)
        self.state, self.verdict = state, verdict
        """The state after the refused step, and why it was refused."""


def train_loop(
    run: Path,
    parts: Parts,
    data: RunData,
    state: TrainState,
    recorder: Recorder,
    stop: StopRequest,
    still_owned: Callable[[], None],
    watchdog: Watchdog,
    rewound: Collection[int] = (),
    old: RunData | None = None,
) -> tuple[TrainState, int]:
    """Take steps until the stage has seen its tokens or a signal asks to stop.

    Saving comes before evaluating: nothing that is only looked at can cost a checkpoint. The updates of the steps
    ``rewound`` are refused. ``old``: the text that is not to be forgotten.
    Returns the saved state and the signal, whichever rank received it; 0: none.
    Raises SpikeError or TrainingError where the guard asks for it.
    """
    config = parts.config
    schedule, every = config.schedule, config.observe.evaluate_every
    clock = SaveClock(minutes=config.checkpoint.every_minutes)
    if config.observe.evaluate_start and state.step == 0 and not on_first(lambda: has_evaluation(run, 0)):
        watchdog.moved(0, "evaluating")
        evaluate(parts, data, old, state, recorder)
    stopped = max(everywhere(lambda: stop.received))
    sharing = partial(sharing_at, config)
    with (
        Saves(run, parts, data, recorder, still_owned) as saves,
        Loader(data, config.objective, parts.groups.data.rank, sharing, state.step) as loader,
    ):
        while not state.finished and not stopped:
            started = time.perf_counter()
            rate = schedule.peak_rate * learning_rate_factor(schedule, state.tokens)
            watchdog.moved(state.step, "waiting for rows")
            _, batches = next(loader)
            watchdog.moved(state.step, "taking a step")
            asks = Asks(stop=stop.received, save=clock.rings(), saved=saves.over)
            judged = partial(judge, state=state, config=config, rewound=rewound)
            with watched(parts, state.step) as rounding:
                result = train_step(parts, batches, step=state.step, rate=rate, asks=asks, judge=judged)
            verdict, totals = result.verdict, result.totals
            state = state.after(
                tokens=totals.tokens, accepted=verdict.accepted, good=verdict.kind in ("good", "rewound"),
                numbers=(totals.loss, totals.gradient_norm), window=config.guard.window,
            )  # fmt: skip
            state = replace(state, finished=state.tokens >= schedule.tokens)
            recorder.step(state, result, rate, time.perf_counter() - started)
            if rounding is not None:
                recorder.rounding(state, everyones(rounding))
            acts = verdict.kind == "spike" and config.guard.on_spike in ("rewind", "stop")
            if totals.saved or acts:
                saves.finish()
            if acts and config.guard.on_spike == "rewind":
                raise SpikeError(state, verdict)
            if acts:
                break_off(run, parts, state, verdict)
            if reason := save_reason(state, result.totals, config.checkpoint):
                watchdog.moved(state.step, f"saving ({reason})")
                state = mark_saved(state, reason, config.checkpoint)
                saves.save(state, reason)
                clock.restart()
            if every and state.step % every == 0 and not state.finished:
                watchdog.moved(state.step, "evaluating")
                evaluate(parts, data, old, state, recorder)
            if state.refused_in_a_row >= REFUSALS_BEFORE_STOP:
                saves.finish()
                break_off(run, parts, state, verdict)
            stopped = result.totals.stop
        saves.finish()
    watchdog.moved(state.step, "evaluating")
    if state.finished and not on_first(lambda: has_evaluation(run, state.step)):
        evaluate(parts, data, old, state, recorder)
    return state, stopped


def break_off(run: Path, parts: Parts, state: TrainState, verdict: Verdict) -> None:
    """Raise TrainingError on every rank."""
    on_first(lambda: stop_when_hopeless(state, verdict, parts.config, run))


def evaluate(parts: Parts, data: RunData, old: RunData | None, state: TrainState, recorder: Recorder) -> None:
    """Record the held-out loss, and that of ``old`` text. Where it fails, that is said and the run goes on.

    Every rank calls this.
    """
    config = parts.config
    try:
        fresh = config.data.held_out_share and on_first(lambda: data.held_out_rows) > 0
        if not (fresh or old):
            return
        loss, kinds = held_out_losses(parts, data) if fresh else (math.nan, {})
        recorder.evaluation(state, loss, kinds, held_out_losses(parts, old)[0] if old else None)
    except Exception as error:
        if parts.groups.world.size > 1 and not isinstance(error, EttinError):
            raise  # of this rank alone: the others wait for it in the middle of the evaluation
        recorder.say(f"no evaluation at step {state.step}: {error or type(error).__name__}; the training goes on")


def held_out_losses(parts: Parts, data: RunData) -> tuple[float, dict[ObjectiveName, float]]:
    """The held-out loss; and where the run mixes rows of two kinds, that of the same text as either of them.

    The first is then the mean over the labels of both, weighted as rows are drawn.
    """
    config = parts.config
    kinds = OBJECTIVES[config.objective].row_kinds
    sums = []
    for name in kinds or (config.objective,):
        batches = everywhere_own(partial(data.held_out, name, config.observe.evaluate_rows))
        sums.append(held_out_sums(parts, batches))
    shares = (1.0 - config.data.causal_share, config.data.causal_share) if kinds else (1.0,)
    total, count = (sum(share * part[side] for share, part in zip(shares, sums, strict=True)) for side in (0, 1))
    by_kind = {name: total / count if count else math.nan for name, (total, count) in zip(kinds, sums, strict=False)}
    return total / count if count else math.nan, by_kind


@dataclass(kw_only=True)
class SaveClock:
    """Minutes since the last save on this rank; only the first rank's clock is asked."""

    minutes: float
    """Period; 0: never."""
    started: float = field(default_factory=time.monotonic)
    """When the current period began, in seconds."""

    def rings(self) -> bool:
        """Whether the period is over."""
        return self.minutes > 0 and time.monotonic() - self.started >= 60 * self.minutes

    def restart(self) -> None:
        """Begin a new period."""
        self.started = time.monotonic()


def save_reason(state: TrainState, totals: Totals, config: CheckpointConfig) -> Reason | None:
    """Why the state after a step must be saved, the most lasting reason first; None: it need not be."""
    if state.finished:
        return "end"
    if config.every_tokens and state.tokens - state.saved_tokens >= config.every_tokens:
        return "tokens"
    if config.every_steps and state.step % config.every_steps == 0:
        return "steps"
    if totals.stop:
        return "signal"
    return "clock" if totals.save else None


def mark_saved(state: TrainState, reason: Reason, config: CheckpointConfig) -> TrainState:
    """The state with the token clock moved to its last mark, so that a late save does not delay the next."""
    if reason != "tokens":
        return state
    return replace(state, saved_tokens=state.tokens - state.tokens % config.every_tokens)
