"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from megatron_ettin.batch import Batch
from megatron_ettin.checkpoint.retention import Reason
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.run import RunConfig
from megatron_ettin.train.due import SaveClock, mark_saved, save_reason
from megatron_ettin.train.guard import stop_when_hopeless
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.step import Asks, StepResult


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What the loop does, without knowing how."""

    step: Callable[[list[Batch], int, float, Asks], StepResult]
    """Take one optimizer step on micro-batches: (batches, step number, learning rate, asks)."""
    rate: Callable[[int], float]
    """Learning rate after so many tokens of the stage."""
    observe: Callable[[TrainState, StepResult, float, float], None]
    """Record a step: (state after it, result, learning rate, seconds)."""
    evaluate: Callable[[TrainState], None]
    """Evaluate on held-out rows when that is due."""
    save: Callable[[TrainState, Reason], None]
    """Write a checkpoint."""
    stop_anywhere: Callable[[int], int]
    """The highest signal number over all ranks."""


def train_loop(
    config: RunConfig,
    state: TrainState,
    batches: Iterator[tuple[int, list[Batch]]],
    actions: Actions,
    stop: StopRequest,
) -> tuple[TrainState, int]:
    """Take steps until the stage has seen its tokens or a signal asks to stop.

    Returns the saved state and the signal, whichever rank received it; 0: none.
    """
    clock = SaveClock(minutes=config.checkpoint.every_minutes)
    stopped = actions.stop_anywhere(stop.received)
    while not state.finished and not stopped:
        started = time.perf_counter()
        rate = actions.rate(state.tokens)
        result = actions.step(next(batches)[1], state.step, rate, Asks(stop=stop.received, save=clock.rings()))
        state = state.after(tokens=result.totals.tokens, accepted=result.accepted)
        state = replace(state, finished=state.tokens >= config.schedule.tokens)
        actions.observe(state, result, rate, time.perf_counter() - started)
        actions.evaluate(state)
        if reason := save_reason(state, result.totals, config.checkpoint):
            state = mark_saved(state, reason, config.checkpoint)
            actions.save(state, reason)
            clock.restart()
        stop_when_hopeless(state.refused_in_a_row, state.step)
        stopped = result.totals.stop
    return state, stopped
