"""When a checkpoint or an evaluation is due: pure functions of the state, but for the clock of the first rank."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from megatron_ettin.checkpoint.retention import Reason
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.run import CheckpointConfig, ObserveConfig
from megatron_ettin.train.totals import Totals


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


def evaluation_due(state: TrainState, config: ObserveConfig) -> bool:
    """Whether the held-out loss is wanted after this step; always at the end of the stage."""
    return state.finished or bool(config.evaluate_every and state.step % config.evaluate_every == 0)
