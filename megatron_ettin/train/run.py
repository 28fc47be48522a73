"""A run from its configuration to its last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_ettin.checkpoint.load import find
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config import rules
from megatron_ettin.config.codec import to_json
from megatron_ettin.config.derived import with_vocabulary, with_world_size
from megatron_ettin.config.overlapping import overlap_line
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.fit import choice_line, fitting_micro_batch, with_micro_batch
from megatron_ettin.cost.fp8 import fp8_line
from megatron_ettin.cost.hardware import GIBI, H100_CLUSTER
from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels.kind import describe, kernel_kind
from megatron_ettin.kernels.products import fills_buffers
from megatron_ettin.parallel.device import deterministic_kernels, device_memory, limit_threads
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.parallel.together import ahead_of_all, everywhere_own, on_first
from megatron_ettin.parallel.watchdog import Watchdog
from megatron_ettin.publish import write_atomically
from megatron_ettin.rows.data_record import record_data
from megatron_ettin.rows.report import source_table
from megatron_ettin.rows.run_data import open_data, open_remembered, stored_vocabulary
from megatron_ettin.run_folder import CONFIG, list_checkpoints, rewound_steps
from megatron_ettin.train.guard import rewind
from megatron_ettin.train.loop import SpikeError, train_loop
from megatron_ettin.train.open_run import open_run_folder
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.record import Recorder
from megatron_ettin.train.rehearsal import can_rehearse, out_of_memory, rehearsed
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.start import ReadHuggingFace, resume, start


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    state: TrainState
    """The saved state."""
    signal: int
    """The signal that stopped it early; 0: none."""


def train(
    config: RunConfig,
    run: Path,
    read_huggingface: ReadHuggingFace,
    *,
    start_over: bool = False,
    change_at: int | None = None,
    still_owned: Callable[[], None] = lambda: None,
    stop: StopRequest | None = None,
) -> Outcome:
    """Train, or continue, the run in folder ``run``, which the caller owns; every rank calls this.

    With ``start_over`` the run begins at step 0 whatever is there, and what is there is kept under another name.
    With ``change_at`` it goes on from the checkpoint of that step with other settings, on record in changes.jsonl.
    ``still_owned`` is asked on the first rank before a checkpoint is published, and raises when the run was taken over.
    ``stop`` is a request that listens already.
    Raises ConfigError, DataError, CheckpointError or TrainingError on every rank.
    """
    with StopRequest() if stop is None else nullcontext(stop) as stop:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rules.check(config, world)
        limit_threads(config.compute.threads)
        config = with_world_size(config, world)
        rules.check(config, world)
        groups = initialize(config.layout)
        config, fitted = on_first(lambda: fitted_to(config, device_memory(groups.device)))
        ahead_of_all(lambda: open_data(config).fingerprint)  # builds row indexes that are not there yet
        data = everywhere_own(lambda: open_data(config))
        config = with_vocabulary(config, data.vocabulary.size)
        ahead_of_all(lambda: bool(open_remembered(config, data.vocabulary.tokenizer)))
        old = everywhere_own(lambda: open_remembered(config, data.vocabulary.tokenizer))
        if change_at is not None:
            find(run, change_at)
        on_first(lambda: open_run_folder(run, config, start_over=start_over, change_at=change_at))
        on_first(lambda: record_data(data, run))
        with (
            deterministic_kernels(groups.device, config.compute.deterministic),
            Watchdog(groups.world.rank, groups.world.size, 60 * config.observe.hang_minutes) as watchdog,
            Recorder(config, groups, run, data.sources) as recorder,
        ):
            begun = on_first(lambda: bool(list_checkpoints(run)))
            given = begun or bool(config.start.huggingface or config.start.from_run)
            parts = build_parts(config, groups, len(data.sources), initial=not given)
            recorder.say(source_table(data))
            if groups.device.kind == "cuda":
                recorder.say(describe(kernel_kind(config.compute, "cuda"), "cuda"))
                if not fills_buffers(groups.device.torch_device):
                    recorder.say("weight gradients: each rounded to bf16; torch 2.11 and later add them up in fp32")
            if fitted:
                recorder.say(fitted)
            if config.compute.precision == "fp8":
                recorder.say(f"fp8 {fp8_line(config, H100_CLUSTER)}")
            if groups.data_context.size > 1:
                recorder.say(overlap_line(config, groups.device.kind))
            state = start(parts, run, data.fingerprint, data.vocabulary.tokenizer, read_huggingface, recorder.say)
            if fitted and can_rehearse(config):
                watchdog.moved(state.step, "rehearsing a micro-batch")
                parts = rehearsed(parts, data, recorder.say)
                on_first(lambda: write_atomically(run / CONFIG, to_json(parts.config)))
            everywhere_own(lambda: recorder.open(state))
            if config.data.held_out_share and on_first(lambda: data.held_out_rows) == 0:
                recorder.say("nothing is held out of so few documents: no evaluation is made; see data.held_out_share")
            while True:
                rewound = on_first(lambda: rewound_steps(run))
                try:
                    state, stopped = train_loop(
                        run, parts, data, state, recorder, stop, still_owned, watchdog, rewound, old
                    )
                    break
                except SpikeError as spike:
                    found, verdict = spike.state, spike.verdict
                except torch.OutOfMemoryError as error:
                    raise ConfigError(out_of_memory(parts.config, device_memory(groups.device))) from error
                watchdog.moved(found.step, "going back to a checkpoint")
                step = on_first(lambda spiked=found, verdict=verdict: rewind(run, config, spiked, verdict))  # type: ignore[misc]
                state = resume(parts, find(run, step), data.fingerprint, data.vocabulary.tokenizer, recorder.say)
                recorder.close_sinks()
                everywhere_own(lambda state=state: recorder.open(state))  # type: ignore[misc]
                recorder.say(f"step {found.step}: {verdict.found}; back to step {state.step} by guard.on_spike=rewind")
            recorder.close(state, stopped)
        return Outcome(state=state, signal=0 if state.finished else stopped)


def fitted_to(config: RunConfig, device_bytes: int | None) -> tuple[RunConfig, str]:
    """The run with the micro-batches that fit into a GPU's memory, where nobody has chosen others, and a line about it.

    Rows of a step, their order, masks and loss do not depend on it. Raises ConfigError where not even one row fits.
    """
    if device_bytes is None or not config.layout.fit_micro_batch:
        return config, ""
    known = with_vocabulary(config, config.model.vocabulary or stored_vocabulary(config))
    rows = fitting_micro_batch(known, device_bytes)
    if not rows:
        raise ConfigError(
            f"not one row of {config.data.row_length} tokens fits into the {device_bytes / GIBI:.0f} GiB of this GPU; "
            "share the model by --tensor or --pipeline, or give --layout.recompute full"
        )
    return with_micro_batch(config, rows), choice_line(with_micro_batch(known, rows), device_bytes)
