"""Bad numbers do not reach the weights."""

from __future__ import annotations

import math

from megatron_ettin.errors import EttinError

REFUSALS_BEFORE_STOP = 10
"""Steps in a row without a finite gradient after which going on is pointless."""


class TrainingError(EttinError):
    """A run that cannot usefully go on."""


def accepts(loss: float, gradient_norm: float) -> bool:
    """Whether a step may change the weights. All ranks pass the same two numbers, so all decide alike."""
    return math.isfinite(loss) and math.isfinite(gradient_norm)


def stop_when_hopeless(refused_in_a_row: int, step: int) -> None:
    """Raise TrainingError after too many refused steps in a row."""
    if refused_in_a_row >= REFUSALS_BEFORE_STOP:
        raise TrainingError(
            f"step {step}: the loss or the gradient was not finite in {refused_in_a_row} steps in a row; the weights "
            "are those before them. Go on from an earlier checkpoint with a lower schedule.peak_rate, or look at the "
            "rows of these steps with `ettin order RUN --step N --text`"
        )
