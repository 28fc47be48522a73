"""What ``ettin check`` and ``ettin status`` say of a plan: of each stage, and of all together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.check.findings import Finding, guarded
from megatron_ettin.check.run import Request, examine
from megatron_ettin.check.status import owner_line, run_status
from megatron_ettin.checkpoint.standing import foresee
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.disk import disk
from megatron_ettin.cost.hardware import GIBI
from megatron_ettin.cost.memory import heaviest
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.plans.folder import (
    as_begun,
    furthest_begun,
    has_begun,
    recorded_stages,
    refuse_changed,
    run_of_stage,
)
from megatron_ettin.plans.resolve import Stage
from megatron_ettin.plans.scale import steps_of
from megatron_ettin.progress import format_count
from megatron_ettin.run_folder import free_bytes, is_run, known_settings, list_checkpoints, read_config, read_numbers


@dataclass(frozen=True, kw_only=True)
class StageFindings:
    """A stage as it would run, and what was found about it."""

    stage: Stage
    config: RunConfig
    found: list[Finding]


def examine_plan(
    stages: Sequence[Stage], folder: Path, world: int | None, deep: bool
) -> tuple[list[StageFindings], list[Finding]]:
    """What is found about each stage that is not over, and about all together; errors do not stop the rest."""
    together = list(guarded("plan", folder_findings(stages, folder)))
    if any(item.state == "error" for item in together):
        return [], together
    if all(stage.config.data.data for stage in stages):
        from megatron_ettin.rows.plan_data import refuse_bad_data  # numpy is imported only where there is data

        def look() -> Iterator[Finding]:
            refuse_bad_data(stages)
            yield Finding("ok", "data", "that of all stages is there, and made by one tokenizer")

        together += guarded("data", look())
    over = furthest_begun(folder, stages).place - 1
    examined = [examine_stage(stage, stages, folder, world, deep) for stage in stages[over:]]
    if not any(item.state == "error" for each in examined for item in each.found):
        together += guarded("plan", sums([each.config for each in examined], [each.stage for each in examined], folder))
    return examined, together


def folder_findings(stages: Sequence[Stage], folder: Path) -> Iterator[Finding]:
    """The plan's folder: free, or begun with this plan."""
    if is_run(folder):
        raise ConfigError(f"--run {folder}: holds a single run; choose another folder for the stages of a plan")
    refuse_changed(folder, stages)
    if not recorded_stages(folder):
        yield Finding("ok", "plan", f"{folder}: a fresh plan")
        return
    stage = furthest_begun(folder, stages)
    yield Finding("ok", "plan", f"{folder}: goes on with stage {stage.place} of {len(stages)}, {stage.name}")


def examine_stage(stage: Stage, stages: Sequence[Stage], folder: Path, world: int | None, deep: bool) -> StageFindings:
    """One stage as a run of its own; one that has not begun starts from a stage that need not be there yet."""
    run, config = run_of_stage(folder, stage), stage.config
    after = stages[stage.place - 2].name if stage.place > 1 else ""
    if after and (stored := known_settings(run) if run.is_dir() else None) is not None:
        config, after = as_begun(config, stored), ""
    start = f"{', '.join(stage.carries)} of stage {after}, when it is over" if after else ""
    resolved, found = examine(Request(config=config, run=run, world=world, deep=deep, start=start))
    return StageFindings(stage=stage, config=resolved, found=found)


def sums(configs: Sequence[RunConfig], stages: Sequence[Stage], folder: Path) -> Iterator[Finding]:
    """Steps, disk and memory of the stages that are not over."""
    steps = sum(map(steps_of, configs))
    tokens = sum(config.schedule.tokens for config in configs)
    yield Finding("ok", "steps", f"about {steps:,} steps for {format_count(tokens)} tokens in {len(configs)} stages")
    if not all(config.model.vocabulary for config in configs):
        return
    most = max(configs, key=lambda config: heaviest(config)[1].total)
    name = stages[configs.index(most)].name
    text = f"{heaviest(most)[1].total / GIBI:.2f} GiB on the fullest rank, in stage {name}"
    yield Finding("ok", "memory", text)
    planned = [disk(config) for config in configs]
    there = [len(list_checkpoints(run_of_stage(folder, stage))) for stage in stages]
    missing = sum(item.most - count * item.checkpoint for item, count in zip(planned, there, strict=True))
    free = free_bytes(folder)
    text = f"{format_count(sum(item.most for item in planned), 'B')} at the end, {format_count(free, 'B')} free"
    if missing > free:
        yield Finding("open", "disk", f"{text}; make room, or raise --checkpoint.every-tokens: all stages stay")
    else:
        yield Finding("ok", "disk", text)


def plan_status(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and what they are: a line a stage, and all about the one in progress. Raises as ``run_status`` does."""
    yield "plan", str(folder)
    yield "owner", owner_line(folder)
    begun = []
    for place, (name, run) in enumerate(recorded_stages(folder), start=1):
        yield f"stage {place}", f"{name}: {progress(run)}"
        if has_begun(run):
            begun.append(run)
    if begun:
        yield from run_status(begun[-1])


def progress(run: Path) -> str:
    """How far a stage is, by its newest whole checkpoint."""
    if not has_begun(run):
        return "has not begun"
    total = read_config(run).schedule.tokens
    try:
        checkpoint = foresee(run).checkpoint
    except CheckpointError as error:
        return f"a start would be refused: {error}"
    if checkpoint is None:
        return f"has begun; nothing of {format_count(total)} tokens is saved yet"
    tokens = read_numbers(checkpoint)["state"]["tokens"]
    done = "over" if tokens >= total else f"saved at {tokens / total:.0%}"
    return f"{done}, step {checkpoint.step:,}, {format_count(tokens)} of {format_count(total)} tokens"
