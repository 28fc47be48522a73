"""A plan from its first stage to its last, each a run in a folder of its own; the ranks go from one to the next."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_ettin.checkpoint.standing import foresee, stored_run
from megatron_ettin.config import rules
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.observe.records import has_evaluation
from megatron_ettin.ownership import Claim
from megatron_ettin.parallel.device import let_go, limit_threads
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.parallel.together import everywhere, on_first
from megatron_ettin.plans.folder import furthest_begun, record_plan, run_of_stage, settings_of
from megatron_ettin.plans.plan import Plan
from megatron_ettin.plans.resolve import Choices, Stage
from megatron_ettin.plans.table import plan_table
from megatron_ettin.rows.plan_data import refuse_bad_data
from megatron_ettin.run_folder import own_run
from megatron_ettin.train.run import Outcome, train
from megatron_ettin.train.signals import StopRequest
from megatron_ettin.train.start import ReadHuggingFace


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A plan that is walked, and how."""

    plan: Plan
    choices: Choices
    stages: Sequence[Stage]
    folder: Path
    """The plan's folder, which the caller owns."""
    command: str
    """What runs, for people."""
    start_over: bool = False
    """Begin the stage that is in progress at step 0."""
    take_over: bool = False
    """Do not wait for heartbeats of the owner of a stage on another host."""


def walk(
    this: Walk,
    read_huggingface: ReadHuggingFace,
    stop: StopRequest,
    *,
    still_owned: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Train, or go on with, the stages of a plan. Every rank calls this.

    Returns the signal that ended it early, after the stage in progress has saved; 0: every stage is over.
    ``still_owned`` and ``say`` are called on the first rank. Raises what ``train`` raises, and ConfigError or DataError
    for a plan that the folder was not begun with, or data of any stage that cannot be read, before any stage starts.
    """
    world, stages = int(os.environ.get("WORLD_SIZE", "1")), this.stages
    for stage in stages:
        if broken := rules.problems(stage.config, world):
            raise ConfigError(f"stage {stage.name!r}: " + "\n  ".join(broken))
    limit_threads(stages[0].config.compute.threads)
    initialize(stages[0].config.layout)
    on_first(partial(begin, this, say))
    over = on_first(lambda: furthest_begun(this.folder, stages).place - 1)
    for stage, before in zip(stages[over:], (None, *stages)[over:], strict=False):
        config, steps = on_first(partial(prospect, this, stage, before))
        if steps:
            on_first(partial(say, f"stage {stage.place} of {len(stages)}: {stage.name} is over, at step {steps}"))
            continue
        on_first(partial(say, f"stage {stage.place} of {len(stages)}: {stage.name}"))
        outcome = train_stage(this, stage, config, read_huggingface, stop, still_owned)
        let_go(compiled=config.compute.compile)
        signal = outcome.signal or (stage is not stages[-1] and max(everywhere(lambda: stop.received)))
        if signal:
            return signal
    return 0


def train_stage(
    this: Walk,
    stage: Stage,
    config: RunConfig,
    read_huggingface: ReadHuggingFace,
    stop: StopRequest,
    still_owned: Callable[[], None],
) -> Outcome:
    """Train one stage in its run folder, which the first rank owns for the while."""
    run = run_of_stage(this.folder, stage)
    with contextlib.ExitStack() as stack:
        claims: list[Claim] = []

        def owned() -> None:
            still_owned()
            claims[0].require()

        on_first(lambda: claims.append(stack.enter_context(own_run(run, this.command, take_over=this.take_over))))
        return train(config, run, read_huggingface, start_over=this.start_over, still_owned=owned, stop=stop)


def begin(this: Walk, say: Callable[[str], None]) -> None:
    """Before the first step of any stage: what is there, what is planned, and that all of its data can be read."""
    refuse_bad_data(this.stages)
    record_plan(this.folder, this.plan, this.choices, this.stages)
    say(f"plan {this.plan.name}\n{plan_table(this.stages)}")


def prospect(this: Walk, stage: Stage, before: Stage | None) -> tuple[RunConfig, int]:
    """The settings with which a stage begins or goes on, and the steps at which it is over; 0: it is not."""

    def steps_before() -> int:
        assert before is not None
        return steps_at_end(run_of_stage(this.folder, before), before.config)

    config, run = settings_of(this.folder, stage, before, steps_before), run_of_stage(this.folder, stage)
    steps = 0
    with contextlib.suppress(*((CheckpointError,) if this.start_over else ())):  # it need not be whole to begin again
        steps = steps_at_end(run, config) if run.is_dir() else 0
    follows = [run_of_stage(this.folder, later) for later in this.stages[stage.place : stage.place + 1]]
    said_all = has_evaluation(run, steps) or any(later.is_dir() for later in follows)
    return config, steps if said_all else 0


def steps_at_end(run: Path, config: RunConfig) -> int:
    """The steps of a run that holds a checkpoint behind all tokens of ``config``; 0: it holds none."""
    checkpoint = foresee(run).checkpoint
    if checkpoint is None:
        return 0
    state, _ = stored_run(checkpoint)
    return state.step if state.tokens >= config.schedule.tokens else 0
