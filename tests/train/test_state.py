"""The numbers of a run, the guard, the signals and the clocks."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace

import pytest

from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.run import CheckpointConfig
from megatron_ettin.errors import CheckpointError
from megatron_ettin.train.loop import SaveClock, mark_saved, save_reason
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.totals import Totals

NEVER = CheckpointConfig(every_tokens=0, every_steps=0, every_minutes=0.0)


def totals(**changes):
    values = {
        "loss": 1.0, "labels": 1, "tokens": 1, "flops": 1.0, "digest": 0, "gradient_norm": 1.0, "stop": 0,
        "save": False, "saved": False, "source_loss": (1.0,), "source_labels": (1,),
    }  # fmt: skip
    return Totals(**{**values, **changes})


def test_state_survives_a_round_trip():
    state = TrainState(step=3, tokens=300, updates=2, refused=1, refused_in_a_row=1, finished=True, bad_since=3)
    state = replace(state, recent=((5.1, 0.1 + 0.2), (5.0, 1e-300)))
    assert TrainState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_a_state_of_before_the_window_is_read():
    known = TrainState(step=3).to_dict()
    del known["recent"], known["bad_since"]
    assert TrainState.from_dict(known) == TrainState(step=3)


@pytest.mark.parametrize(
    "change",
    [{"step": "3"}, {"tokens": None}, {"finished": 1}, {"updates": 1.5}, {"recent": [[1.0]]}, {"recent": 3}],
)
def test_a_damaged_state_is_refused(change):
    with pytest.raises(CheckpointError, match=next(iter(change))):
        TrainState.from_dict({**TrainState().to_dict(), **change})


def test_a_refused_step_moves_on_in_the_data_but_not_in_the_weights():
    state = TrainState().after(tokens=10, accepted=True).after(tokens=10, accepted=False)
    assert (state.step, state.tokens, state.updates, state.refused, state.refused_in_a_row) == (2, 20, 1, 1, 1)
    assert state.after(tokens=1, accepted=True).refused_in_a_row == 0


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf])
@pytest.mark.parametrize("norm", [1.0, math.nan, math.inf])
def test_only_finite_numbers_are_accepted(loss, norm):
    assert totals(loss=loss, gradient_norm=norm).finite == (loss == norm == 1.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_remembered_and_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_leaves_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_reasons_to_save():
    state = TrainState(step=10, tokens=1000)
    assert save_reason(state, totals(), NEVER) is None
    assert save_reason(state, totals(save=True), NEVER) == "clock"
    assert save_reason(state, totals(save=True, stop=15), NEVER) == "signal"
    assert save_reason(state, totals(stop=15), replace(NEVER, every_steps=5)) == "steps"
    assert save_reason(state, totals(), replace(NEVER, every_steps=3)) is None
    assert save_reason(state, totals(), replace(NEVER, every_steps=5, every_tokens=900)) == "tokens"
    assert save_reason(replace(state, finished=True), totals(), NEVER) == "end"


def test_the_token_clock_does_not_drift():
    config = replace(NEVER, every_tokens=100)
    state, saves = TrainState(), []
    for _ in range(100):
        state = state.after(tokens=30, accepted=True)
        if reason := save_reason(state, totals(), config):
            state = mark_saved(state, reason, config)
            saves.append(state.tokens)
    assert len(saves) == 30
    assert all(0 <= tokens - 100 * (index + 1) < 30 for index, tokens in enumerate(saves))


def test_the_clock_rings_after_its_minutes_only():
    clock = SaveClock(minutes=1.0)
    assert not clock.rings()
    clock.started -= 61
    assert clock.rings()
    clock.restart()
    assert not clock.rings()
    assert not SaveClock(minutes=0.0, started=-1e9).rings()
