"""A run from its configuration to its last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from megatron_ettin.checkpoint.retention import Reason
from megatron_ettin.checkpoint.together import on_first
from megatron_ettin.config import rules
from megatron_ettin.config.derived import with_vocabulary, with_world_size
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.data.loader import Loader
from megatron_ettin.data.stage import StageData, open_stage
from megatron_ettin.parallel.device import prepare
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.schedule import learning_rate_factor
from megatron_ettin.train.folder import open_run_folder
from megatron_ettin.train.loop import Actions, train_loop
from megatron_ettin.train.parts import Parts, build_parts
from megatron_ettin.train.record import Recorder
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.start import ReadHuggingFace, start
from megatron_ettin.train.state import TrainState
from megatron_ettin.train.step import train_step
from megatron_ettin.train.store import save_run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    state: TrainState
    """The saved state."""
    signal: int
    """The signal that stopped it early; 0: none."""


def train(config: RunConfig, run: Path, read_huggingface: ReadHuggingFace) -> Outcome:
    """Train, or continue, the run in folder ``run``; every rank calls this.

    Raises ConfigError, DataError, CheckpointError or TrainingError on every rank.
    """
    with StopRequest() as stop:
        device = prepare()
        config = with_world_size(config, device.world_size)
        stage = open_stage(config)
        config = with_vocabulary(config, stage.vocabulary)
        rules.check(config, device.world_size)
        groups = initialize(config.layout)
        on_first(lambda: open_run_folder(run, config))
        parts = build_parts(config, groups, device, len(stage.sources))
        recorder = Recorder(config, run, stage.sources)
        state = start(parts, run, stage.fingerprint, read_huggingface, recorder.say)
        recorder.begin(state)
        state = _steps(parts, run, stage, state, recorder, stop)
        recorder.end(state, stop.received)
        return Outcome(state=state, signal=0 if state.finished else stop.received)


def _steps(
    parts: Parts, run: Path, stage: StageData, state: TrainState, recorder: Recorder, stop: StopRequest
) -> TrainState:
    config, data = parts.config, parts.groups.collection.dp
    loader = Loader(
        stage, OBJECTIVES[config.objective], data.rank(), data.size(), config.layout.micro_batch_rows, state.step
    )
    actions = Actions(
        step=partial(train_step, parts),
        rate=lambda tokens: config.schedule.peak_rate * learning_rate_factor(config.schedule, tokens),
        observe=recorder.step,
        evaluate=partial(_evaluate, parts, stage, recorder),
        save=partial(_save, parts, run, stage.fingerprint, recorder),
        stop_anywhere=_highest,
    )
    try:
        return train_loop(config, state, iter(loader), actions, stop)
    finally:
        loader.close()
